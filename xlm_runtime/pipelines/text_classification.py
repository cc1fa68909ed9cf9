"""Labels of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from xlm_runtime.config import XLMConfig
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import FloatArray, best_first, check_choice, check_top_k, sigmoid, softmax
from xlm_runtime.pipelines.base import Languages, TextInputs, read_text, respond

FUNCTIONS = ("softmax", "sigmoid", "none")


class LabelScore(TypedDict):
    """A label and its score."""

    label: str
    score: float


Answer = LabelScore | list[LabelScore]


class TextClassificationPipeline:
    """Sequence classification and regression."""

    def __init__(self, model: BundleModel) -> None:
        self.model = model

    def __call__(
        self,
        inputs: TextInputs,
        *,
        lang: Languages = None,
        top_k: int | None = 1,
        function_to_apply: str | None = None,
        truncation: bool = False,
    ) -> Answer | list[Answer] | Iterator[Answer]:
        """For each text its best label, or with another `top_k` than 1 a list of labels, the best first.

        Args:
            inputs: texts, or dictionaries with "text", "text_pair" and "lang".
            lang: language of all texts, or a list with one for each.
            top_k: how many labels; None for all.
            function_to_apply: "softmax" over the labels, "sigmoid" of each, or "none"; by default what the
                checkpoint's `problem_type` asks for.
            truncation: cut texts that are longer than the model's positions, instead of refusing them; of a pair
                the longer one first.

        Raises:
            InputError: empty or too long texts, an unknown language or function.
        """
        check_top_k(top_k)
        function = _default_function(self.model.config) if function_to_apply is None else function_to_apply
        check_choice("function_to_apply", function, FUNCTIONS)

        def read(batch: list[TokenSequence]) -> list[Answer]:
            logits: FloatArray = self.model.run(batch)["logits"]
            scores = {"softmax": softmax, "sigmoid": sigmoid}[function](logits) if function != "none" else logits
            return [self._label(row, top_k) for row in scores]

        def answer(items: Iterator[TextItem]) -> Iterator[Answer]:
            return self.model.answer_each((self.model.encode(item, truncation=truncation) for item in items), read)

        return respond(inputs, lang, lambda item, language: read_text(item, language, pairs=True), answer)

    def _label(self, scores: FloatArray, top_k: int | None) -> Answer:
        names = self.model.config.id2label
        labels: list[LabelScore] = [
            {"label": names[int(i)], "score": float(scores[i])} for i in best_first(scores, top_k)
        ]
        return labels[0] if top_k == 1 else labels


def _default_function(config: XLMConfig) -> str:
    """What turns logits into scores, as in Hugging Face's pipeline."""
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
