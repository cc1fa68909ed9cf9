"""Labels of texts and of pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from xlm_runtime.config import XLMConfig
from xlm_runtime.model.model import BundleModel, TokenSequence
from xlm_runtime.numerics import FloatArray, sigmoid, softmax, top_k
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, TextInputs, check_choice, check_top_k, read_text

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
    max_length: int | None = None

    def __post_init__(self) -> None:
        check_top_k(self.top_k)
        if self.function_to_apply is not None:
            check_choice("function_to_apply", self.function_to_apply, tuple(FUNCTIONS))


class TextClassificationPipeline(Pipeline[TextClassificationOptions, TokenSequence, FloatArray, Answer]):
    """Sequence classification and regression."""

    input_keys = ("text", "text_pair", "lang")

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
        max_length: int | None = None,
        on_error: str = "raise",
    ) -> Answers[Answer]:
        """For each text its best label, or with another `top_k` than 1 a list of labels, the best first.

        Args:
            inputs: texts, or dictionaries with "text", "text_pair" and "lang".
            lang: language of all texts, or a list with one for each.
            top_k: how many labels; None for all.
            function_to_apply: "softmax" over the labels, "sigmoid" of each, or "none"; by default what the
                checkpoint's `problem_type` asks for.
            truncation: cut texts that are longer than `max_length`, instead of refusing them; of a pair the longer one
                first.
            max_length: most tokens of a row; by default the tokenizer's `model_max_length`, or the model's positions.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: empty or too long texts, an unknown language or function.
        """
        options = TextClassificationOptions(top_k, function_to_apply, truncation, max_length)
        return self.answer(inputs, lang=lang, on_error=on_error, options=options)

    def check(self, lang: Languages, options: TextClassificationOptions) -> None:
        self.model.longest_row(options.max_length)

    def preprocess(self, item: Any, lang: str | None, options: TextClassificationOptions) -> list[TokenSequence]:
        text = read_text(item, lang, pairs=True)
        return [self.model.encode(text, truncation=options.truncation, max_length=options.max_length)]

    def forward(self, batch: list[TokenSequence], options: TextClassificationOptions) -> Callable[[], FloatArray]:
        wait = self.model.start(batch)
        return lambda: FUNCTIONS[options.function_to_apply or self._function](wait()["logits"])

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
