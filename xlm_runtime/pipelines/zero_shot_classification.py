"""Labels that the model was never trained on: does the text entail "This example is {label}."? (Yin et al. 2019)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import FloatArray, softmax, top_k
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, TextInputs, read_text


class LabelRanking(TypedDict):
    """A text with all candidate labels and their scores, the best first."""

    sequence: str
    labels: list[str]
    scores: list[float]


@dataclass(frozen=True)
class ZeroShotClassificationOptions:
    """See `ZeroShotClassificationPipeline.__call__`."""

    candidate_labels: tuple[str, ...]
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    truncation: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        if not self.candidate_labels:
            raise InputError("candidate_labels is empty; give at least one label.")
        if "{}" not in self.hypothesis_template:
            raise InputError(f"The hypothesis_template '{self.hypothesis_template}' has no {{}} for the label.")


class ZeroShotClassificationPipeline(Pipeline[ZeroShotClassificationOptions, TokenSequence, FloatArray, LabelRanking]):
    """Zero-shot classification with a checkpoint for natural language inference.

    Raises:
        InputError: no label of the checkpoint begins with "entail".
    """

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
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
        max_length: int | None = None,
        on_error: str = "raise",
    ) -> Answers[LabelRanking]:
        """For each text the candidate labels, the best first.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            candidate_labels: labels, as a list or in one string with commas between them.
            lang: language of all texts (and of the hypotheses), or a list with one for each.
            hypothesis_template: a sentence with {} in the label's place.
            multi_label: score each label by itself (entailment against contradiction), instead of all against each
                other.
            truncation: cut texts that are longer than `max_length`, never the hypothesis.
            max_length: most tokens of a row; by default the tokenizer's `model_max_length`, or the model's positions.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: no labels, a template without {}, empty or too long texts, an unknown language.
        """
        options = ZeroShotClassificationOptions(
            split_labels(candidate_labels), hypothesis_template, multi_label, truncation, max_length
        )
        return self.answer(inputs, lang=lang, on_error=on_error, options=options)

    def check(self, lang: Languages, options: ZeroShotClassificationOptions) -> None:
        self.model.longest_row(options.max_length)

    def preprocess(self, item: Any, lang: str | None, options: ZeroShotClassificationOptions) -> list[TokenSequence]:
        """A row for each hypothesis."""
        text = read_text(item, lang)
        hypotheses = [options.hypothesis_template.replace("{}", label) for label in options.candidate_labels]
        cut = "only_first" if options.truncation else False
        return [
            self.model.encode(TextItem(text.text, each, text.lang), truncation=cut, max_length=options.max_length)
            for each in hypotheses
        ]

    def forward(self, batch: list[TokenSequence], options: ZeroShotClassificationOptions) -> Callable[[], FloatArray]:
        wait = self.model.start(batch)
        return lambda: wait()["logits"]

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[FloatArray], options: ZeroShotClassificationOptions
    ) -> LabelRanking:
        logits = np.stack(outputs)  # (labels, num_labels of the checkpoint)
        if options.multi_label or len(outputs) == 1:
            scores = softmax(logits[:, [self._contradiction, self._entailment]])[:, 1]
        else:
            scores = softmax(logits[:, self._entailment])
        order = top_k(scores, None)
        return {
            "sequence": rows[0].text,
            "labels": [options.candidate_labels[i] for i in order],
            "scores": [float(scores[i]) for i in order],
        }


def split_labels(candidate_labels: str | Sequence[str]) -> tuple[str, ...]:
    """Labels out of a list, or of one string with commas between them; empty ones are left out."""
    listed = candidate_labels.split(",") if isinstance(candidate_labels, str) else candidate_labels
    return tuple(label.strip() for label in listed if label.strip())
