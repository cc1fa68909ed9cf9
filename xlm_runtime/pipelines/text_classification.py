"""Labels of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from xlm_runtime.config import XLMConfig
from xlm_runtime.model.model import BundleModel, TokenSequence
from xlm_runtime.numerics import FloatArray, sigmoid, softmax, top_k
from xlm_runtime.pipelines.base import Languages, Pipeline, TextInputs, check_choice, check_top_k, read_text

FUNCTIONS: dict[str, Callable[[FloatArray], FloatArray]] = {
    "softmax": softmax,
    "sigmoid": sigmoid,
    "none": lambda logits: logits,
}


class LabelScore(TypedDict):
    """A label and its score."""

    label: str
    score: float


Answer = LabelScore | list[LabelScore]


@dataclass(frozen=True)
class TextClassificationOptions:
    """See `TextClassificationPipeline.__call__`."""

    top_k: int | None = 1
    function_to_apply: str | None = None
    truncation: bool = False

    def __post_init__(self) -> None:
        check_top_k(self.top_k)
        if self.function_to_apply is not None:
            check_choice("function_to_apply", self.function_to_apply, tuple(FUNCTIONS))


class TextClassificationPipeline(Pipeline[TextClassificationOptions, TokenSequence, FloatArray, Answer]):
    """Sequence classification and regression."""

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
        self._names = model.config.id2label
        self._function = _default_function(model.config)

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
        options = TextClassificationOptions(top_k, function_to_apply, truncation)
        return self.answer(inputs, lang=lang, options=options)

    def preprocess(self, item: Any, lang: str | None, options: TextClassificationOptions) -> list[TokenSequence]:
        return [self.model.encode(read_text(item, lang, pairs=True), truncation=options.truncation)]

    def forward(self, batch: list[TokenSequence], options: TextClassificationOptions) -> FloatArray:
        logits: FloatArray = self.model.run(batch)["logits"]
        return FUNCTIONS[options.function_to_apply or self._function](logits)

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[FloatArray], options: TextClassificationOptions
    ) -> Answer:
        scores = outputs[0]  # (num_labels,)
        labels: list[LabelScore] = [
            {"label": self._names[int(i)], "score": float(scores[i])} for i in top_k(scores, options.top_k)
        ]
        return labels[0] if options.top_k == 1 else labels


def _default_function(config: XLMConfig) -> str:
    """What turns logits into scores, as in Hugging Face's pipeline."""
    if config.problem_type == "regression":
        return "none"
    if config.problem_type == "multi_label_classification" or config.num_labels == 1:
        return "sigmoid"
    return "softmax"
