"""The XLM transformer (Lample & Conneau 2019, "Cross-lingual Language Model Pretraining")."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm_export.families.layouts import PackedBatch, not_behind, take_rows
from xlm_export.families.model import FamilyModel
from xlm_export.families.past import PastKeyValues
from xlm_export.families.xlm.modeling.layers import (
    LanguageEmbeddings,
    LayerNorm,
    MultiHeadAttention,
    TransformerFFN,
    attention_bias,
)
from xlm_export.families.xlm.modeling.outputs import BaseModelOutput
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError


def sinusoidal_embeddings(n_positions: int, dim: int) -> Tensor:
    """The fixed position table of Vaswani et al. 2017, (n_positions, dim) float32, sines and cosines interleaved."""
    frequency = np.power(10000, 2 * (np.arange(dim) // 2) / dim)
    angle = np.arange(n_positions)[:, None] / frequency
    table = np.empty((n_positions, dim), dtype=np.float32)
    table[:, 0::2] = np.sin(angle[:, 0::2])
    table[:, 1::2] = np.cos(angle[:, 1::2])
    return torch.from_numpy(table)


class XLMPreTrainedModel(FamilyModel):
    """What every XLM model has: its transformer, under a head, and XLM's initialisation."""

    transformer: XLMModel

    @property
    def body(self) -> XLMModel:
        return self.transformer

    @property
    def word_embeddings(self) -> Tensor:
        return self.body.embeddings.weight

    def new_transformer(self) -> XLMModel:
        """The transformer for a head, of a family that shares XLM's heads another one."""
        return XLMModel(self.config)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Draw new weights: linear layers from N(0, init_std²), embeddings from N(0, embed_init_std²)."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, self.config.init_std)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(0, self.config.embed_init_std)
                if module.padding_idx is not None:
                    module.weight[module.padding_idx] = 0
        for module in self.modules():
            if isinstance(module, XLMModel) and self.config.sinusoidal_embeddings:
                positions = module.position_embeddings.weight
                if not positions.is_meta:
                    positions.copy_(sinusoidal_embeddings(positions.shape[0], positions.shape[1]))


class XLMModel(XLMPreTrainedModel):
    """The transformer without a head.

    Raises:
        InputError: `is_encoder` is false; XLM has no decoder with cross-attention in any released checkpoint.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        if not config.is_encoder:
            raise InputError(
                "is_encoder is false; XLM's decoder with cross-attention is not supported. Set is_encoder=true, and "
                "causal=true for a model that generates from left to right."
            )
        dim = config.emb_dim
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, dim)
        if config.sinusoidal_embeddings:
            self.position_embeddings.weight.requires_grad = False
        if config.uses_langs:
            self.lang_embeddings = LanguageEmbeddings(config.n_langs, dim)
        self.embeddings = nn.Embedding(config.vocab_size, dim, padding_idx=config.pad_token_id)
        self.layer_norm_emb = LayerNorm(dim, eps=config.layer_norm_eps)
        layers = range(config.n_layers)
        self.attentions = nn.ModuleList(MultiHeadAttention(config) for _ in layers)
        self.layer_norm1 = nn.ModuleList(LayerNorm(dim, eps=config.layer_norm_eps) for _ in layers)
        self.ffns = nn.ModuleList(TransformerFFN(config) for _ in layers)
        self.layer_norm2 = nn.ModuleList(LayerNorm(dim, eps=config.layer_norm_eps) for _ in layers)
        self.init_weights()

    @property
    def body(self) -> XLMModel:
        return self

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        langs: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: PastKeyValues | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutput:
        """Run the layers.

        Args:
            input_ids: (batch, sequence) int64; with a cache only the new tokens.
            attention_mask: (batch, past_sequence + sequence), nonzero for real tokens; by default made from
                `lengths`.
            langs: (batch, sequence) int64, each token's language, -1 for no language embedding, which is the default;
                models without language embeddings ignore it.
            token_type_ids: (batch, sequence) int64. They index the *word* embeddings: zeros are not the same as
                absent.
            position_ids: (batch, sequence) int64; by default 0, 1, … behind the cache.
            lengths: (batch,) int64, real tokens of each row, counted from the left; by default those of `input_ids`
                that are not padding.
            cache: keys and values of past tokens, for causal models; `empty_cache` begins one, and the output's
                `present` is appended to it.
            inputs_embeds: (batch, sequence, emb_dim), instead of `input_ids`.
            output_attentions, output_hidden_states: by default what the configuration says.

        Raises:
            InputError: shapes that do not fit each other, too many positions, or a cache on a model that is not
                causal.
        """
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("Exactly one of input_ids and inputs_embeds is needed.")
        embeds = self.embeddings(input_ids) if inputs_embeds is None else inputs_embeds
        batch, sequence = embeds.shape[:2]
        if cache is not None and not config.causal:
            raise InputError(
                "A cache was given to a model with causal=false: there every new token changes the keys and values "
                "of all earlier ones, so none can be kept. Run the whole sequence again for each token."
            )
        past = cache.length if cache is not None else 0
        if not torch.compiler.is_exporting():
            self._check_shapes(batch, sequence, past, attention_mask, langs, position_ids, token_type_ids, lengths)
        mask = self._token_mask(input_ids, attention_mask, lengths, embeds, past)

        if position_ids is None:
            positions = self.position_embeddings.weight[past : past + sequence]
        else:
            positions = self.position_embeddings(position_ids)
        hidden = self._embed(embeds, positions, langs, token_type_ids)
        present_mask = mask[:, past:]
        keep = present_mask.unsqueeze(-1).to(hidden.dtype)
        hidden = hidden * keep

        visible = mask[:, None, None, :]
        if config.causal:
            columns = torch.arange(mask.shape[1], device=mask.device)[past:]
            visible = visible & not_behind(columns, mask.shape[1])
        bias = attention_bias(visible)
        attentions_wanted = config.output_attentions if output_attentions is None else output_attentions
        hidden_wanted = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        all_hidden, all_weights, present = [hidden], [], []
        for i in range(config.n_layers):
            past_layer = cache.layers[i] if cache is not None else None
            attended = self._before_attention(i, hidden)
            context, key_value, weights = self.attentions[i](attended, bias, past_layer, attentions_wanted)
            hidden = self._after_attention(i, hidden, context) * keep
            all_hidden.append(hidden)
            all_weights.append(weights)
            present.append(key_value)
        return BaseModelOutput(
            last_hidden_state=hidden,
            mask=present_mask,
            hidden_states=tuple(all_hidden) if hidden_wanted else None,
            attentions=tuple(all_weights) if attentions_wanted else None,
            present=PastKeyValues(tuple(present)) if cache is not None else None,
        )

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Run the layers on the packed layout, for answering alone: there is no dropout.

        Every token of the batch is computed once, and in the last layer only the kept ones are: as keys and values
        they take part, but nothing else is made of the others, because nothing would read it.

        Returns:
            One tensor: the last hidden states (tokens, emb_dim), or (kept, emb_dim) where `kept_index` names some.
        """
        embeds = self.embeddings(batch.input_ids) if batch.inputs_embeds is None else batch.inputs_embeds
        hidden = self._embed(embeds, self.position_embeddings(batch.position_ids), batch.langs, batch.token_type_ids)
        hidden = hidden.unsqueeze(0)  # (1, tokens, emb_dim): on two axes engines do not fuse int8 products as well
        layout, last, causal = batch.layout, self.config.n_layers - 1, self.config.causal
        attentions = [cast("MultiHeadAttention", attention) for attention in self.attentions]
        bias = attention_bias(batch.visible(causal))
        for i in range(last):
            attended = self._before_attention(i, hidden)
            context = attentions[i].forward_packed(attended, bias, layout, attended, layout)
            hidden = self._after_attention(i, hidden, context)
        attended = self._before_attention(last, hidden)
        kept, queried, query_layout = hidden, attended, layout
        if batch.kept_index is not None:
            kept = take_rows(hidden.squeeze(0), batch.kept_index).unsqueeze(0)
            queried = kept if attended is hidden else take_rows(attended.squeeze(0), batch.kept_index).unsqueeze(0)
            query_layout = batch.kept_layout
            bias = attention_bias(batch.visible_to_kept(causal))
        context = attentions[last].forward_packed(attended, bias, layout, queried, query_layout)
        return (self._after_attention(last, kept, context).squeeze(0),)

    def _embed(self, embeds: Tensor, positions: Tensor, langs: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        """What enters the first layer: words (…, emb_dim), positions (…, emb_dim), languages and types (…)."""
        added = [positions]
        if langs is not None and self.config.uses_langs:
            added.append(self.lang_embeddings(langs))
        if token_type_ids is not None:
            added.append(self.embeddings(token_type_ids))
        return functional.dropout(self.layer_norm_emb(embeds, *added), self.config.dropout, self.training)

    def _before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        """What attention reads of what enters a layer, both (…, emb_dim)."""
        return hidden

    def _after_attention(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        """The token-wise rest of a layer: what entered it and what attention gave, both (…, emb_dim)."""
        context = functional.dropout(context, self.config.dropout, self.training)
        hidden = self.layer_norm1[layer](hidden, context)
        output: Tensor = self.layer_norm2[layer](hidden, self.ffns[layer](hidden))
        return output

    def empty_cache(self, batch: int) -> PastKeyValues:
        """A cache of no tokens for `batch` rows, in the model's type and on its device."""
        weight = self.embeddings.weight
        shape = (batch, self.config.n_heads, 0, self.config.emb_dim // self.config.n_heads)
        empty = torch.empty(shape, dtype=weight.dtype, device=weight.device)
        return PastKeyValues(tuple((empty, empty) for _ in range(self.config.n_layers)))

    def _token_mask(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        lengths: Tensor | None,
        embeds: Tensor,
        past: int,
    ) -> Tensor:
        """(batch, past + sequence), bool: which tokens are real."""
        if attention_mask is not None:
            return attention_mask != 0
        batch, sequence = embeds.shape[:2]
        if lengths is None:
            real = torch.ones((batch, sequence), dtype=torch.bool, device=embeds.device)
            if input_ids is not None and self.config.pad_token_id is not None:
                real = torch.ne(input_ids, self.config.pad_token_id)
            lengths = real.sum(dim=1)
        steps = torch.arange(past + sequence, device=embeds.device)
        return steps < (past + lengths)[:, None]

    def _check_shapes(
        self,
        batch: int,
        sequence: int,
        past: int,
        attention_mask: Tensor | None,
        langs: Tensor | None,
        position_ids: Tensor | None,
        token_type_ids: Tensor | None,
        lengths: Tensor | None,
    ) -> None:
        expected = {
            "attention_mask": (attention_mask, (batch, past + sequence)),
            "langs": (langs, (batch, sequence)),
            "position_ids": (position_ids, (batch, sequence)),
            "token_type_ids": (token_type_ids, (batch, sequence)),
            "lengths": (lengths, (batch,)),
        }
        for name, (value, shape) in expected.items():
            if value is not None and tuple(value.shape) != shape:
                raise InputError(f"{name} has shape {tuple(value.shape)}, expected {shape}.")
        limit = self.config.max_position_embeddings
        if position_ids is None and past + sequence > limit:
            raise InputError(
                f"The sequence has {past + sequence} tokens, but the model has only {limit} positions; shorten it."
            )
        if lengths is not None and int(lengths.max()) > sequence:
            raise InputError(f"lengths holds {int(lengths.max())}, but the sequence has {sequence} tokens.")
