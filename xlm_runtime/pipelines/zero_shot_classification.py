"""Labels that the model was never trained on: does the text entail "This example is {label}."? (Yin et al. 2019)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypedDict

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import FloatArray, best_first, softmax
from xlm_runtime.pipelines.base import Languages, TextInputs, read_text, respond


class LabelRanking(TypedDict):
    """A text with all candidate labels and their scores, the best first."""

    sequence: str
    labels: list[str]
    scores: list[float]


class ZeroShotClassificationPipeline:
    """Zero-shot classification with a checkpoint for natural language inference.

    Raises:
        InputError: no label of the checkpoint begins with "entail".
    """

    def __init__(self, model: BundleModel) -> None:
        self.model = model
        labels = model.config.id2label
        entailment = [index for index, label in labels.items() if label.lower().startswith("entail")]
        if not entailment or len(labels) < 2:
            raise InputError(
                "zero-shot-classification needs a checkpoint for natural language inference, with a label "
                f"'entailment'; the labels of '{model.bundle.folder}' are {', '.join(labels.values())}. "
                "Correct id2label in config.json and export again, if it is one."
            )
        contradiction = [index for index, label in labels.items() if label.lower().startswith("contradict")]
        self._entailment = entailment[0]
        # without such a name: the last label where the first is entailment, otherwise the first
        self._contradiction = contradiction[0] if contradiction else (len(labels) - 1 if entailment[0] == 0 else 0)

    def __call__(
        self,
        inputs: TextInputs,
        candidate_labels: str | Sequence[str],
        *,
        lang: Languages = None,
        hypothesis_template: str = "This example is {}.",
        multi_label: bool = False,
        truncation: bool = False,
    ) -> LabelRanking | list[LabelRanking] | Iterator[LabelRanking]:
        """For each text the candidate labels, the best first.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            candidate_labels: labels, as a list or in one string with commas between them.
            lang: language of all texts (and of the hypotheses), or a list with one for each.
            hypothesis_template: a sentence with {} in the label's place.
            multi_label: score each label by itself (entailment against contradiction), instead of all against each
                other.
            truncation: cut texts that are longer than the model's positions, never the hypothesis.

        Raises:
            InputError: no labels, a template without {}, empty or too long texts, an unknown language.
        """
        labels = _labels(candidate_labels)
        if "{}" not in hypothesis_template:
            raise InputError(f"The hypothesis_template '{hypothesis_template}' has no {{}} for the label.")
        hypotheses = [hypothesis_template.replace("{}", label) for label in labels]
        cut = "only_first" if truncation else False

        def encode(item: TextItem) -> list[TokenSequence]:
            return [
                self.model.encode(TextItem(item.text, hypothesis, item.lang), truncation=cut)
                for hypothesis in hypotheses
            ]

        def read(batch: list[TokenSequence]) -> list[tuple[str, FloatArray]]:
            logits = self.model.run(batch)["logits"]
            return [(row.text, row_logits) for row, row_logits in zip(batch, logits, strict=True)]

        def answer(items: Iterator[TextItem]) -> Iterator[LabelRanking]:
            for group in self.model.answer((encode(item) for item in items), read):
                # (labels, num_labels of the checkpoint)
                logits = np.stack([row_logits for _, row_logits in group])
                yield self._rank(group[0][0], labels, logits, multi_label)

        return respond(inputs, lang, read_text, answer)

    def _rank(self, text: str, labels: list[str], logits: FloatArray, multi_label: bool) -> LabelRanking:
        if multi_label or len(labels) == 1:
            scores = softmax(logits[:, [self._contradiction, self._entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self._entailment])
        order = best_first(scores, None)
        return {
            "sequence": text,
            "labels": [labels[i] for i in order],
            "scores": [float(scores[i]) for i in order],
        }


def _labels(candidate_labels: str | Sequence[str]) -> list[str]:
    listed = candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels
    labels = [label.strip() for label in listed if label.strip()]
    if not labels:
        raise InputError("candidate_labels is empty; give at least one label.")
    return labels
