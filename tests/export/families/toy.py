"""A family of its own, ToyXLM: normalisation before attention, and none of XLM's names.

`ToyXLM*` re-creates what XLM computes as far as a test needs it, with words, places and layers called
`encoder.blocks.{i}.attn.query` and the like, a configuration with options that XLM has not, and another start of
prompts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm_export.families.family import ExportFamily
from xlm_export.families.layouts import PackedBatch, PackedLayout, take_rows
from xlm_export.families.model import FamilyModel
from xlm_export.families.xlm.modeling.layers import LayerNorm, attention_bias, merge_heads, split_heads
from xlm_export.families.xlm.modeling.outputs import BaseModelOutput, MaskedLMOutput, SequenceClassifierOutput
from xlm_export.onnx_graph.names import WeightNames
from xlm_runtime.config import XLMConfig
from xlm_runtime.families import Family
from xlm_runtime.tokenization import XLMTokenizer


@dataclass(kw_only=True)
class ToyXLMConfig(XLMConfig):
    model_type: ClassVar[str] = "toyxlm"

    pre_norm: bool = True
    layerdrop: float = 0.0


class ToyXLMTokenizer(XLMTokenizer):
    """XLM's, under a name of its own."""


class ToyAttention(nn.Module):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query, self.key, self.value, self.out = (nn.Linear(config.emb_dim, config.emb_dim) for _ in range(4))

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        parts = (split_heads(layer(hidden), self.n_heads) for layer in (self.query, self.key, self.value))
        return self.out(merge_heads(functional.scaled_dot_product_attention(*parts, bias)))

    def forward_packed(self, hidden: Tensor, bias: Tensor, layout: PackedLayout) -> Tensor:
        layers = (self.query, self.key, self.value)
        weight, offset = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
        parts = layout.spread_heads(functional.linear(hidden, weight, offset), self.n_heads, 3)
        context = functional.scaled_dot_product_attention(*parts, bias)
        return self.out(layout.gather_heads(context).unsqueeze(0))


class ToyBlock(nn.Module):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        dim = config.emb_dim
        self.attn = ToyAttention(config)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def after_attention(self, hidden: Tensor, context: Tensor) -> Tensor:
        hidden = hidden + context
        return hidden + self.mlp(self.norm2(hidden))


class ToyXLMModel(FamilyModel):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.emb_dim)
        self.places = nn.Embedding(config.max_position_embeddings, config.emb_dim)
        self.blocks = nn.ModuleList(ToyBlock(config) for _ in range(config.n_layers))

    @property
    def body(self) -> ToyXLMModel:
        return self

    @property
    def word_embeddings(self) -> Tensor:
        return self.words.weight

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        cache: None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutput:
        mask = attention_mask != 0
        hidden = self.words(input_ids) + self.places.weight[: input_ids.shape[1]]
        bias = attention_bias(mask[:, None, None, :])
        states = [hidden]
        for block in self.blocks:
            hidden = block.after_attention(hidden, block.attn(block.norm1(hidden), bias))
            states.append(hidden)
        return BaseModelOutput(hidden, mask, tuple(states) if output_hidden_states else None)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        hidden = (self.words(batch.input_ids) + self.places(batch.position_ids)).unsqueeze(0)
        bias = attention_bias(batch.visible(causal=False))
        for block in self.blocks:
            context = block.attn.forward_packed(block.norm1(hidden), bias, batch.layout)
            hidden = block.after_attention(hidden, context)
        hidden = hidden.squeeze(0)
        return (hidden if batch.kept_index is None else take_rows(hidden, batch.kept_index),)


class ToyXLMHead(FamilyModel):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.encoder = ToyXLMModel(config)

    @property
    def body(self) -> ToyXLMModel:
        return self.encoder

    @property
    def word_embeddings(self) -> Tensor:
        return self.encoder.word_embeddings


class ToyXLMWithLMHeadModel(ToyXLMHead):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.emb_dim, config.vocab_size)
        self.tie_weights()

    def project(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def tie_weights(self) -> None:
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.encoder.words.weight

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> MaskedLMOutput:
        return MaskedLMOutput(logits=self.project(self.encoder(input_ids, attention_mask).last_hidden_state))

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        return (self.project(self.encoder.forward_packed(batch)[0]),)


class ToyXLMForSequenceClassification(ToyXLMHead):
    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.emb_dim, config.num_labels)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> SequenceClassifierOutput:
        output = self.encoder(input_ids, attention_mask, None, output_hidden_states, output_attentions)
        return SequenceClassifierOutput(None, self.score(output.last_hidden_state[:, 0]), output.hidden_states)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        return (self.score(self.encoder.forward_packed(batch)[0]),)


RUNTIME = Family("ToyXLM", ToyXLMConfig, f"{__name__}:ToyXLMTokenizer", prompt_start="bos_token_id", prompt_mask=False)

TOY = ExportFamily(
    runtime=RUNTIME,
    models={
        "Model": ToyXLMModel,
        "WithLMHeadModel": ToyXLMWithLMHeadModel,
        "ForSequenceClassification": ToyXLMForSequenceClassification,
    },
    names=WeightNames(
        body="encoder.",
        word_embeddings="words.weight",
        positions="places.weight",
        projection="lm_head.weight",
        layer=re.compile(r"(?:^|\.)blocks\.(?P<layer>\d+)\.(?:(?P<attention>attn)|(?P<ffn>mlp)|norm[12])\."),
        qkv=re.compile(r"(?:^|\.)blocks\.\d+\.attn\.(?:(?P<q>query)|(?P<k>key)|(?P<v>value))\.(?:weight|bias)$"),
    ),
    head_tensors=(("lm_head.bias", "WithLMHeadModel"), ("score.weight", "ForSequenceClassification")),
    absent_passes=lambda config: {"skip-layer-norm": "a layer normalises before its sums"} if config.pre_norm else {},
)
