"""The two halves of a transformer layer, and the functions between the token axis and the batch layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm_export.families.layouts import PackedLayout, take_rows
from xlm_runtime.config import XLMConfig


def split_heads(x: Tensor, n_heads: int) -> Tensor:
    """(batch, sequence, emb_dim) → (batch, n_heads, sequence, head_dim), the layout of attention."""
    return x.reshape(*x.shape[:-1], n_heads, x.shape[-1] // n_heads).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(batch, n_heads, sequence, head_dim) → (batch, sequence, emb_dim), back to token-wise work."""
    return x.transpose(1, 2).flatten(-2)


def attention_bias(visible: Tensor) -> Tensor:
    """What is added to the attention scores: 0 where a query may look, a large negative number elsewhere.

    Half of float32's lowest number, so that adding a score never overflows to -inf: a row that is masked throughout
    then gives finite weights. It is float32 in half precision too, where scores may be further apart than any number.

    Args:
        visible: (batch, 1, queries or 1, keys) bool.

    Returns:
        float32 in the same shape.
    """
    zero = torch.zeros((), dtype=torch.float32, device=visible.device)
    return torch.where(visible, zero, torch.finfo(torch.float32).min / 2)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation of a sum, in float32 whatever the model's type.

    XLM's eps of 1e-12 is zero in half precision, and a sum of two numbers that fp16 holds may be one that it does not.
    """

    def forward(self, x: Tensor, *added: Tensor) -> Tensor:
        """(…, emb_dim) and what is added to it → (…, emb_dim) in the type of `x`."""
        total = x.float()
        for term in added:
            total = total + term.float()
        weight, bias = self.weight.float(), self.bias.float()
        return functional.layer_norm(total, self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class LanguageEmbeddings(nn.Embedding):
    """A vector for each language, and zeros for -1: no language embedding is added, as where no `langs` are given.

    The zeros are a row behind the table, which is where index -1 of ONNX's Gather points to.
    """

    def forward(self, langs: Tensor) -> Tensor:
        """int64 (…) → (…, emb_dim)."""
        table = torch.cat((self.weight, self.weight.new_zeros(1, self.embedding_dim)))
        if not torch.compiler.is_exporting():  # torch's index must not be negative
            langs = torch.where(langs == -1, self.num_embeddings, langs)
        return take_rows(table, langs)


class MultiHeadAttention(nn.Module):
    """Self-attention with queries scaled by 1/√head_dim and a softmax in float32 (Vaswani et al. 2017)."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.attention_dropout
        self.q_lin = nn.Linear(config.emb_dim, config.emb_dim)
        self.k_lin = nn.Linear(config.emb_dim, config.emb_dim)
        self.v_lin = nn.Linear(config.emb_dim, config.emb_dim)
        self.out_lin = nn.Linear(config.emb_dim, config.emb_dim)

    def forward(
        self,
        hidden: Tensor,
        bias: Tensor,
        past: tuple[Tensor, Tensor] | None = None,
        output_attentions: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """Attend from `hidden` to the past and to itself.

        Past and new keys are never joined: scores are computed apart and joined for the softmax, and the two contexts
        are summed. So a step copies none of the past.

        Args:
            hidden: (batch, sequence, emb_dim).
            bias: what `attention_bias` returns.
            past: key and value of past tokens, each (batch, n_heads, past_sequence, head_dim).

        Returns:
            The output (batch, sequence, emb_dim); key and value of the new tokens; and, when asked for, the weights
            (batch, n_heads, sequence, past_sequence + sequence).
        """
        query = split_heads(self.q_lin(hidden), self.n_heads)
        key = split_heads(self.k_lin(hidden), self.n_heads)
        value = split_heads(self.v_lin(hidden), self.n_heads)
        dropout = self.dropout if self.training else 0.0
        if past is None and not output_attentions:
            context = functional.scaled_dot_product_attention(query, key, value, bias, dropout)
            return self.out_lin(merge_heads(context)), (key, value), None
        query = query / math.sqrt(query.shape[-1])
        scores = query @ key.transpose(-1, -2)
        if past is not None:
            scores = torch.cat((query @ past[0].transpose(-1, -2), scores), dim=-1)
        weights = functional.softmax(scores.float() + bias, dim=-1).to(scores.dtype)
        weights = functional.dropout(weights, dropout, self.training)
        if past is None:
            context = weights @ value
        else:
            length = past[0].shape[2]
            context = weights[..., :length] @ past[1] + weights[..., length:] @ value
        return self.out_lin(merge_heads(context)), (key, value), weights if output_attentions else None

    def forward_packed(
        self, hidden: Tensor, bias: Tensor, layout: PackedLayout, queried: Tensor, query_layout: PackedLayout
    ) -> Tensor:
        """Attend from some tokens to all of their rows, in the packed layout.

        One product gives queries, keys and values where all tokens ask, another keys and values where some do.

        Args:
            hidden: (1, tokens, emb_dim), in `layout`.
            bias: what `attention_bias` returns, (packs, 1, queries, longest).
            queried: the tokens that ask, `hidden` itself or (1, kept, emb_dim), in `query_layout`.

        Returns:
            (1, tokens, emb_dim) or (1, kept, emb_dim).
        """
        if queried is hidden:
            query, key, value = layout.spread_heads(
                _joined(hidden, self.q_lin, self.k_lin, self.v_lin), self.n_heads, 3
            )
        else:
            (query,) = query_layout.spread_heads(self.q_lin(queried), self.n_heads, 1)
            key, value = layout.spread_heads(_joined(hidden, self.k_lin, self.v_lin), self.n_heads, 2)
        context = functional.scaled_dot_product_attention(query, key, value, bias)
        output: Tensor = self.out_lin(query_layout.gather_heads(context).unsqueeze(0))
        return output


def _joined(hidden: Tensor, *layers: nn.Linear) -> Tensor:
    """Several linear layers of one input in one product: (…, dim) → (…, layers · dim)."""
    weight = torch.cat([layer.weight for layer in layers])
    return functional.linear(hidden, weight, torch.cat([layer.bias for layer in layers]))


class TransformerFFN(nn.Module):
    """Two linear layers with GELU (by erf) or ReLU between them; the inner one is four times as wide."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.gelu = config.gelu_activation
        self.lin1 = nn.Linear(config.emb_dim, 4 * config.emb_dim)
        self.lin2 = nn.Linear(4 * config.emb_dim, config.emb_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, emb_dim) → (…, emb_dim)."""
        inner = self.lin1(hidden)
        inner = functional.gelu(inner) if self.gelu else functional.relu(inner)
        return functional.dropout(self.lin2(inner), self.dropout, self.training)
