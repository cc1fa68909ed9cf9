"""The two question-answering heads: independent start and end scores, and XLNet's beam."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from xlm_export.families.layouts import Layout, PackedBatch, PaddedLayout
from xlm_export.families.past import PastKeyValues
from xlm_export.families.xlm.modeling.layers import LayerNorm
from xlm_export.families.xlm.modeling.model import XLMPreTrainedModel
from xlm_export.families.xlm.modeling.outputs import QuestionAnsweringModelOutput, XLMForQuestionAnsweringOutput
from xlm_export.families.xlm.modeling.summary import last_real_index
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError

# What XLNet subtracts from the score of a token that cannot be an answer. Scores are float32 whatever the model's
# type, so the number is finite and the softmax of a row that is masked throughout is, too.
NOT_AN_ANSWER = 1e30


def mask_scores(scores: Tensor, p_mask: Tensor) -> Tensor:
    """`scores`, in float32, with the tokens of `p_mask` (1 = cannot be an answer) far below all others."""
    return scores.float() * (1 - p_mask) - NOT_AN_ANSWER * p_mask


def not_answers(p_mask: Tensor | None, mask: Tensor) -> Tensor:
    """(batch, sequence) float32 for `mask_scores`: 0 for what can be an answer, 1 for what cannot, 2 for padding.

    So padding takes no part even where no token can be an answer and all are equally likely.
    """
    padding = 2 * (~mask).float()
    return padding if p_mask is None else torch.maximum(p_mask.float(), padding)


def top_k(probabilities: Tensor, k: int, dim: int) -> tuple[Tensor, Tensor]:
    """The `k` highest along `dim`, which may be shorter than `k`: the rest have probability 0 at a valid index.

    Padded rather than clamped, since ONNX's TopK wants a constant k.
    """
    shape = list(probabilities.shape)
    shape[dim] = k
    filler = probabilities.new_full(shape, -1.0)
    values, index = torch.topk(torch.cat((probabilities, filler), dim=dim), k, dim=dim)
    return values.clamp(min=0), index.clamp(max=probabilities.shape[dim] - 1)


class XLMPoolerStartLogits(nn.Module):
    """A score for each token: is it the first of the answer?"""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.emb_dim, 1)

    def forward(self, hidden: Tensor, p_mask: Tensor, layout: Layout) -> Tensor:
        """(…, emb_dim), `p_mask` (batch, sequence) → float32 (batch, sequence)."""
        return mask_scores(layout.spread(self.dense(hidden)).squeeze(-1), p_mask)


class XLMPoolerEndLogits(nn.Module):
    """A score for each token: is it the last of the answer that begins at a given start?"""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * config.emb_dim, config.emb_dim)
        self.LayerNorm = LayerNorm(config.emb_dim, eps=config.layer_norm_eps)
        self.dense_1 = nn.Linear(config.emb_dim, 1)

    def forward(self, hidden: Tensor, start_states: Tensor, p_mask: Tensor, layout: Layout) -> Tensor:
        """Score every end for every start.

        The first layer of [hidden, start] is taken apart, W·[h, s] = W₁h + W₂s, so that it is computed once for each
        token and once for each start, not for every pair.

        Args:
            hidden: (…, emb_dim).
            start_states: (batch, starts, emb_dim).
            p_mask: (batch, sequence).

        Returns:
            float32 (batch, sequence, starts).
        """
        dim = hidden.shape[-1]
        token_weight, start_weight = self.dense_0.weight[:, :dim], self.dense_0.weight[:, dim:]
        tokens = functional.linear(hidden, token_weight).unsqueeze(-2)
        starts = layout.of_row(functional.linear(start_states, start_weight, self.dense_0.bias))
        inner = self.LayerNorm(torch.tanh(tokens + starts))  # (…, starts, emb_dim)
        return mask_scores(layout.spread(self.dense_1(inner).squeeze(-1)), p_mask.unsqueeze(-1))


class XLMPoolerAnswerClass(nn.Module):
    """A score for the whole text: has the question no answer in it (SQuAD 2.0)?"""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.dense_0 = nn.Linear(2 * config.emb_dim, config.emb_dim)
        self.dense_1 = nn.Linear(config.emb_dim, 1, bias=False)

    def forward(self, hidden: Tensor, start_state: Tensor, cls_index: Tensor, layout: Layout) -> Tensor:
        """(…, emb_dim), (batch, emb_dim), (batch,) int64 → float32 (batch,)."""
        both = torch.cat((start_state, layout.take(hidden, cls_index.unsqueeze(1)).squeeze(1)), dim=-1)
        scores: Tensor = self.dense_1(torch.tanh(self.dense_0(both)))
        return scores.squeeze(-1).float()


class XLMSQuADHead(nn.Module):
    """XLNet's answer beam: the best starts, for each of them the best ends, and a score for "no answer"."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__()
        self.start_n_top = config.start_n_top
        self.end_n_top = config.end_n_top
        self.start_logits = XLMPoolerStartLogits(config)
        self.end_logits = XLMPoolerEndLogits(config)
        self.answer_class = XLMPoolerAnswerClass(config)

    def forward(
        self, hidden: Tensor, p_mask: Tensor, cls_index: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The beam: starts and their ends, as in `XLMForQuestionAnsweringOutput`, and the no-answer score.

        Args:
            hidden: (…, emb_dim) in the `layout`.
            p_mask: (batch, sequence), what `not_answers` returns.
            cls_index: (batch,).
        """
        start_probabilities = functional.softmax(self.start_logits(hidden, p_mask, layout), dim=-1)
        start_top, start_index = top_k(start_probabilities, self.start_n_top, dim=1)
        start_states = layout.take(hidden, start_index)
        end_probabilities = functional.softmax(self.end_logits(hidden, start_states, p_mask, layout), dim=1)
        end_top, end_index = top_k(end_probabilities, self.end_n_top, dim=1)
        # (batch, end_n_top, start_n_top), flattened in this order
        mean_start = (start_probabilities.to(hidden.dtype).unsqueeze(1) @ layout.spread(hidden)).squeeze(1)
        cls_logits = self.answer_class(hidden, mean_start, cls_index, layout)
        return start_top, start_index, end_top.flatten(1), end_index.flatten(1), cls_logits

    def loss(
        self,
        hidden: Tensor,
        p_mask: Tensor,
        cls_index: Tensor | None,
        start_positions: Tensor,
        end_positions: Tensor,
        is_impossible: Tensor | None,
    ) -> Tensor:
        """Mean of start and end loss, plus half the no-answer loss where `cls_index` and `is_impossible` are given."""
        layout = PaddedLayout()
        start_states = layout.take(hidden, start_positions.unsqueeze(1))
        start_loss = functional.cross_entropy(self.start_logits(hidden, p_mask, layout), start_positions)
        end_scores = self.end_logits(hidden, start_states, p_mask, layout).squeeze(-1)
        loss = (start_loss + functional.cross_entropy(end_scores, end_positions)) / 2
        if cls_index is not None and is_impossible is not None:
            cls_logits = self.answer_class(hidden, start_states.squeeze(1), cls_index, layout)
            cls_loss = functional.binary_cross_entropy_with_logits(cls_logits, is_impossible.to(cls_logits.dtype))
            loss = loss + 0.5 * cls_loss
        return loss


class XLMForQuestionAnswering(XLMPreTrainedModel):
    """The transformer with the beam head."""

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        self.transformer = self.new_transformer()
        self.qa_outputs = XLMSQuADHead(config)
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
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        is_impossible: Tensor | None = None,
        cls_index: Tensor | None = None,
        p_mask: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> XLMForQuestionAnsweringOutput:
        """`XLMModel.forward` and the beam, or the loss alone when start and end positions are given.

        Args:
            start_positions, end_positions: (batch,) int64, first and last token of the answer.
            is_impossible: (batch,), 1 where there is no answer.
            cls_index: (batch,) int64, the token that tells whether there is an answer; by default the last real one.
            p_mask: (batch, sequence), 1 for tokens that cannot be an answer. Padding never can.
        """
        output = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, inputs_embeds,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        hidden = output.last_hidden_state
        forbidden = not_answers(p_mask, output.mask)
        if start_positions is not None and end_positions is not None:
            loss = self.qa_outputs.loss(
                hidden,
                forbidden,
                _squeezed(cls_index),
                start_positions.reshape(-1),
                end_positions.reshape(-1),
                _squeezed(is_impossible),
            )
            return XLMForQuestionAnsweringOutput(loss, hidden_states=output.hidden_states, attentions=output.attentions)
        index = last_real_index(output.mask) if cls_index is None else cls_index.reshape(-1)
        start_top, start_index, end_top, end_index, cls_logits = self.qa_outputs(
            hidden, forbidden, index, PaddedLayout()
        )
        return XLMForQuestionAnsweringOutput(
            None, start_top, start_index, end_top, end_index, cls_logits, output.hidden_states, output.attentions
        )

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """The beam, as `XLMForQuestionAnsweringOutput` has it; `p_mask` and `cls_index` are needed."""
        (hidden,) = self.transformer.forward_packed(batch)
        if batch.p_mask is None or batch.cls_index is None:
            raise InputError("A packed batch for the beam head needs p_mask (batch, longest) and cls_index (batch,).")
        forbidden = not_answers(batch.p_mask, batch.mask)
        beam: tuple[Tensor, ...] = self.qa_outputs(hidden, forbidden, batch.cls_index, batch.layout)
        return beam


def _squeezed(x: Tensor | None) -> Tensor | None:
    """(batch, 1) → (batch,)."""
    return None if x is None else x.reshape(-1)


class XLMForQuestionAnsweringSimple(XLMPreTrainedModel):
    """The transformer with a start and an end score for each token.

    Raises:
        InputError: `num_labels` is not 2.
    """

    def __init__(self, config: XLMConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise InputError(
                f"num_labels is {config.num_labels}, but XLMForQuestionAnsweringSimple has 2 outputs, the scores of an "
                "answer's start and end. Leave id2label out of config.json, or give it 2 entries."
            )
        self.transformer = self.new_transformer()
        self.qa_outputs = nn.Linear(config.emb_dim, config.num_labels)
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
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> QuestionAnsweringModelOutput:
        """`XLMModel.forward` and the scores.

        Args:
            start_positions, end_positions: (batch,) int64; a position behind the sequence is ignored.
        """
        output = self.transformer(
            input_ids, attention_mask, langs, token_type_ids, position_ids, lengths, cache, inputs_embeds,
            output_attentions, output_hidden_states,
        )  # fmt: skip
        start_logits, end_logits = self.qa_outputs(output.last_hidden_state).unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            outside = start_logits.shape[1]

            def position_loss(logits: Tensor, positions: Tensor) -> Tensor:
                inside = positions.reshape(-1).clamp(0, outside)
                return functional.cross_entropy(logits, inside, ignore_index=outside)

            loss = (position_loss(start_logits, start_positions) + position_loss(end_logits, end_positions)) / 2
        return QuestionAnsweringModelOutput(loss, start_logits, end_logits, output.hidden_states, output.attentions)

    def forward_packed(self, batch: PackedBatch) -> tuple[Tensor, ...]:
        """Start and end scores, (tokens,) each."""
        (hidden,) = self.transformer.forward_packed(batch)
        scores: Tensor = self.qa_outputs(hidden)
        return scores.unbind(-1)
