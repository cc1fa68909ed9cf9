"""FlauBERT's models (Le et al. 2020, "FlauBERT: Unsupervised Language Model Pre-training for French").

With `pre_norm` false a layer is XLM's. With it

    h ← h + attention(LayerNorm₁(h));    h ← h + FFN(LayerNorm₂(h))

and nothing normalises the last layer's sum. Weights and heads are XLM's.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from xlm_export.families.xlm.modeling import (
    XLMForMultipleChoice,
    XLMForQuestionAnswering,
    XLMForQuestionAnsweringSimple,
    XLMForSequenceClassification,
    XLMForTokenClassification,
    XLMModel,
    XLMPreTrainedModel,
    XLMWithLMHeadModel,
)
from xlm_runtime.flaubert_config import FlaubertConfig


class FlaubertModel(XLMModel):
    """The transformer without a head. `layerdrop` is training's, and leaves out nothing here.

    Raises:
        InputError: `is_encoder` is false.
    """

    config: FlaubertConfig

    def _before_attention(self, layer: int, hidden: Tensor) -> Tensor:
        if not self.config.pre_norm:
            return hidden
        normalized: Tensor = self.layer_norm1[layer](hidden)
        return normalized

    def _after_attention(self, layer: int, hidden: Tensor, context: Tensor) -> Tensor:
        if not self.config.pre_norm:
            return super()._after_attention(layer, hidden, context)
        hidden = hidden + functional.dropout(context, self.config.dropout, self.training)
        output: Tensor = hidden + self.ffns[layer](self.layer_norm2[layer](hidden))
        return output


class FlaubertPreTrainedModel(XLMPreTrainedModel):
    """What puts FlauBERT's transformer under XLM's heads."""

    config: FlaubertConfig

    def new_transformer(self) -> FlaubertModel:
        return FlaubertModel(self.config)


class FlaubertWithLMHeadModel(FlaubertPreTrainedModel, XLMWithLMHeadModel):
    """Scores of every word at every position."""


class FlaubertForSequenceClassification(FlaubertPreTrainedModel, XLMForSequenceClassification):
    """One vector a sequence, to `num_labels` scores."""


class FlaubertForMultipleChoice(FlaubertPreTrainedModel, XLMForMultipleChoice):
    """One score a choice."""


class FlaubertForTokenClassification(FlaubertPreTrainedModel, XLMForTokenClassification):
    """`num_labels` scores a token."""


class FlaubertForQuestionAnswering(FlaubertPreTrainedModel, XLMForQuestionAnswering):
    """The SQuAD beam of starts and ends."""


class FlaubertForQuestionAnsweringSimple(FlaubertPreTrainedModel, XLMForQuestionAnsweringSimple):
    """Start and end scores a token."""
