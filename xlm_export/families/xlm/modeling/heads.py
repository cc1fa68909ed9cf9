"""The heads for language modelling, classification and multiple choice."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm_export.families.layouts import PackedBatch
from xlm_export.families.past import PastKeyValues
from xlm_export.families.xlm.modeling.model import XLMPreTrainedModel
from xlm_export.families.xlm.modeling.outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from xlm_export.families.xlm.modeling.summary import XLMSequenceSummary
from xlm_runtime.config import XLMConfig


def classification_loss(logits: Tensor, labels: Tensor, num_labels: int, problem_type: str | None) -> Tensor:
    """Mean loss of (batch, num_labels) logits.

    Without a `problem_type` one label means regression, integer labels mean one class an item, and other labels
    mean any number of classes an item, as in Hugging Face's models.
    """
    if problem_type is None:
        if num_labels == 1:
            problem_type = "regression"
        elif labels.dtype in (torch.int32, torch.int64):
            problem_type = "single_label_classification"
        else:
            problem_type = "multi_label_classification"
    if problem_type == "regression":
        return functional.mse_loss(logits.reshape(labels.shape), labels)
    if problem_type == "single_label_classification":
        return functional.cross_entropy(logits, labels.reshape(-1))
    return functional.binary_cross_entropy_with_logits(logits, labels)


class XLMPredLayer(nn.Module):
    """Hidden states to word scores: a linear layer, or adaptive softmax (Grave et al. 2016)."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.proj: nn.Linear | nn.AdaptiveLogSoftmaxWithLoss
        if config.asm:
            self.proj = nn.AdaptiveLogSoftmaxWithLoss(
                config.emb_dim,
                config.vocab_size,
                cutoffs=list(config.asm_cutoffs or ()),
                div_value=config.asm_div_value,
                head_bias=True,
            )
        else:
            self.proj = nn.Linear(config.emb_dim, config.vocab_size)

    def forward(self, hidden: Tensor) -> Tensor:
        """(…, emb_dim) → (…, vocab_size): scores, or log-probabilities with adaptive softmax."""
        if isinstance(self.proj, nn.Linear):
            return self.proj(hidden)  # type: ignore[no-any-return]  # nn.Module.__call__ is untyped
        head = functional.log_softmax(self.proj.head(hidden).float(), dim=-1)
        clusters = len(self.proj.tail)
        words, gates = head[..., : head.shape[-1] - clusters], head[..., head.shape[-1] - clusters :]
        tails = [
            functional.log_softmax(tail(hidden).float(), dim=-1) + gates[..., i : i + 1]
            for i, tail in enumerate(self.proj.tail)
        ]
        return torch.cat((words, *tails), dim=-1).to(hidden.dtype)

    def loss(self, hidden: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy over the labels that are not -100."""
        if isinstance(self.proj, nn.Linear):
            return functional.cross_entropy(scores.flatten(0, -2), labels.flatten())
        return functional.nll_loss(scores.flatten(0, -2), labels.flatten())


class XLMWithLMHeadModel(XLMPreTrainedModel):
    """Scores of every word of the vocabulary at every position; the projection is tied to the embeddings."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.transformer = self.new_transformer()
        self.pred_layer = XLMPredLayer(config)
        self.init_weights()
        self.tie_weights()

    def project(self, hidden: Tensor) -> Tensor:
        scores: Tensor = self.pred_layer(hidden)
        return scores

    def tie_weights(self) -> None:
        if self.config.tie_word_embeddings and isinstance(self.pred_layer.proj, nn.Linear):
            self.pred_layer.proj.weight = self.transformer.embeddings.weight

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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        logits_to_keep: int | Tensor = 0,
    ) -> MaskedLMOutput:
        """`XLMModel.forward` and the projection.

        Args:
            labels: (batch, sequence) int64, not shifted; -100 is ignored.
            logits_to_keep: which positions get logits: the last n (0 for all), a list of positions (kept,), or
                positions of each row (batch, kept). `labels` are taken at the same positions.
        """
        output = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, inputs_embeds,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        hidden = _keep_positions(output.last_hidden_state, logits_to_keep)
        logits = self.pred_layer(hidden)
        loss = None
        if labels is not None:
            kept_labels = _keep_positions(labels.unsqueeze(-1), logits_to_keep).squeeze(-1)
            loss = self.pred_layer.loss(hidden, logits, kept_labels)
        return MaskedLMOutput(loss, logits, output.hidden_states, output.attentions, output.present)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """(kept, vocab_size)."""
        (hidden,) = self.transformer.forward_packed(batch)
        return (self.pred_layer(hidden),)


def _keep_positions(x: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """(batch, sequence, dim) → (batch, kept, dim), or (kept, dim) where `logits_to_keep` is a mask."""
    if isinstance(logits_to_keep, int):
        return x[:, -logits_to_keep:] if logits_to_keep else x
    if logits_to_keep.dtype == torch.bool:
        return x[logits_to_keep]
    if logits_to_keep.dim() == 2:
        return torch.take_along_dim(x, logits_to_keep.unsqueeze(-1), dim=1)
    return x[:, logits_to_keep]


class XLMForSequenceClassification(XLMPreTrainedModel):
    """One vector a sequence, to `num_labels` scores: classes, several labels at once, or regression."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.transformer = self.new_transformer()
        self.sequence_summary = XLMSequenceSummary(config)
        self.init_weights()

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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> SequenceClassifierOutput:
        """`XLMModel.forward` and the summary; `labels` (batch,) or (batch, num_labels), see `classification_loss`."""
        output = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, inputs_embeds,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        logits = self.sequence_summary(output.last_hidden_state, output.mask)
        loss = None
        if labels is not None:
            loss = classification_loss(logits, labels, self.config.num_labels, self.config.problem_type)
        return SequenceClassifierOutput(loss, logits, output.hidden_states, output.attentions)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """(batch, num_labels)."""
        (hidden,) = self.transformer.forward_packed(batch)
        return (self.sequence_summary.forward_packed(hidden, batch),)


class XLMForMultipleChoice(XLMPreTrainedModel):
    """One score a choice; inputs are (batch, num_choices, sequence)."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.transformer = self.new_transformer()
        self.sequence_summary = XLMSequenceSummary(config)
        self.logits_proj = nn.Linear(config.num_labels, 1)
        self.init_weights()

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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MultipleChoiceModelOutput:
        """As `XLMModel.forward` with a choice axis behind the batch axis of every input (`lengths` included).

        Args:
            labels: (batch,) int64, the right choice.
        """
        shaped = input_ids if input_ids is not None else inputs_embeds
        choices = shaped.shape[1] if shaped is not None else 1

        def flat(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.flatten(0, 1)

        output = self.transformer(
            flat(input_ids), flat(attention_mask), flat(langs), flat(token_type_ids), flat(position_ids),
            flat(lengths), cache, flat(inputs_embeds), output_attentions, output_hidden_states,
        )  # fmt: skip
        scores = self.logits_proj(self.sequence_summary(output.last_hidden_state, output.mask))
        logits = scores.reshape(-1, choices)
        loss = functional.cross_entropy(logits, labels) if labels is not None else None
        return MultipleChoiceModelOutput(loss, logits, output.hidden_states, output.attentions)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """(batch, num_choices), the shape of `kept_index`; for a mean that of `padded_index` (…, longest)."""
        if batch.kept_index is None or batch.kept_token_index is None:
            shape = batch.padded_index.shape[:2]
            rows = replace(
                batch, padded_index=batch.padded_index.flatten(0, 1), segment_ids=batch.segment_ids.flatten(0, 1)
            )
        else:
            shape = batch.kept_index.shape
            rows = replace(
                batch, kept_index=batch.kept_index.flatten(), kept_token_index=batch.kept_token_index.flatten()
            )
        (hidden,) = self.transformer.forward_packed(rows)
        scores = self.logits_proj(self.sequence_summary.forward_packed(hidden, rows))
        return (scores.reshape(shape),)


class XLMForTokenClassification(XLMPreTrainedModel):
    """`num_labels` scores a token."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.transformer = self.new_transformer()
        self.classifier = nn.Linear(config.emb_dim, config.num_labels)
        self.init_weights()

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
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> TokenClassifierOutput:
        """`XLMModel.forward` and the classifier; `labels` (batch, sequence) int64, -100 is ignored."""
        output = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, inputs_embeds,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        hidden = functional.dropout(output.last_hidden_state, self.config.dropout, self.training)
        logits = self.classifier(hidden)
        loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten()) if labels is not None else None
        return TokenClassifierOutput(loss, logits, output.hidden_states, output.attentions)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """(tokens, num_labels)."""
        (hidden,) = self.transformer.forward_packed(batch)
        return (self.classifier(hidden),)
