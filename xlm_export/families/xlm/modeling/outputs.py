"""What the models return: Hugging Face's output types, by the same names and in the same order.

Shapes: `hidden_states` holds `n_layers + 1` tensors (batch, sequence, emb_dim), the first one behind the
embeddings; `attentions` holds `n_layers` tensors (batch, n_heads, sequence, past_sequence + sequence).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xlm_export.families.past import PastKeyValues


@dataclass
class ModelOutput:
    """Base of the outputs. Fields that were not computed are None."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that were computed, in order."""
        values = (getattr(self, option.name) for option in dataclasses.fields(self))
        return tuple(value for value in values if value is not None)


@dataclass
class BaseModelOutput(ModelOutput):
    """`last_hidden_state` (batch, sequence, emb_dim); `mask` (batch, sequence), bool, which tokens are real.

    `present`, where a cache was given, holds the keys and values of the new tokens.
    """

    last_hidden_state: Tensor
    mask: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    present: PastKeyValues | None = None


@dataclass
class MaskedLMOutput(ModelOutput):
    """`logits` (batch, kept, vocab_size): scores, or log-probabilities with adaptive softmax.

    `present`, where a cache was given, holds the keys and values of the new tokens.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    present: PastKeyValues | None = None


@dataclass
class SequenceClassifierOutput(ModelOutput):
    """`logits` (batch, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MultipleChoiceModelOutput(ModelOutput):
    """`logits` (batch, num_choices)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class TokenClassifierOutput(ModelOutput):
    """`logits` (batch, sequence, num_labels)."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class QuestionAnsweringModelOutput(ModelOutput):
    """`start_logits` and `end_logits` (batch, sequence)."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class XLMForQuestionAnsweringOutput(ModelOutput):
    """The SQuAD beam. The `*_log_probs` are probabilities; the name is Hugging Face's and XLNet's.

    `start_top_log_probs`, `start_top_index` (batch, start_n_top); `end_top_log_probs`, `end_top_index`
    (batch, end_n_top * start_n_top), flattened from (end_n_top, start_n_top): the ends of start i stand at
    i, i + start_n_top, …; `cls_logits` (batch,), high where the question has no answer.
    """

    loss: Tensor | None = None
    start_top_log_probs: Tensor | None = None
    start_top_index: Tensor | None = None
    end_top_log_probs: Tensor | None = None
    end_top_index: Tensor | None = None
    cls_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
