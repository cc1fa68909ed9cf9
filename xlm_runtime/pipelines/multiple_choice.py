"""Which of several endings fits a beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import TextItem, TokenSequence
from xlm_runtime.numerics import softmax
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, is_column, read_mapping


class Choice(TypedDict):
    """The best choice, its number and probability, and the probabilities of all choices in the order given."""

    choice: str
    index: int
    score: float
    scores: list[float]


@dataclass(frozen=True)
class MultipleChoiceOptions:
    """See `MultipleChoicePipeline.__call__`."""

    choices: Sequence[str] | None = None
    truncation: bool = False
    max_length: int | None = None


class MultipleChoicePipeline(Pipeline[MultipleChoiceOptions, TokenSequence, float, Choice]):
    """Multiple choice: each choice is read with the prompt, as a pair of texts."""

    input_keys = ("prompt", "choices", "lang")

    def __call__(
        self,
        prompts: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
        choices: Sequence[str] | None = None,
        *,
        lang: Languages = None,
        truncation: bool = False,
        max_length: int | None = None,
        on_error: str = "raise",
    ) -> Answers[Choice]:
        """For each prompt the best choice.

        Args:
            prompts: prompts, or dictionaries with "prompt", "choices" and "lang".
            choices: for all prompts that come without choices of their own; two or more.
            lang: language of all prompts, or a list with one for each.
            truncation: cut prompts and choices that together are longer than `max_length`, the longer first, instead of
                refusing them.
            max_length: most tokens of a row; by default the tokenizer's `model_max_length`, or the model's positions.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: fewer than two choices, empty or too long texts, an unknown language.
        """
        listed = tuple(choices) if choices is not None and is_column(choices) else choices
        options = MultipleChoiceOptions(listed, truncation, max_length)
        return self.answer(prompts, lang=lang, on_error=on_error, options=options)

    def check(self, lang: Languages, options: MultipleChoiceOptions) -> None:
        self.model.longest_row(options.max_length)

    def preprocess(self, item: Any, lang: str | None, options: MultipleChoiceOptions) -> list[TokenSequence]:
        """A row for each choice: those of a question can be in different batches."""
        prompt, choices = item, options.choices
        if not isinstance(item, str):
            values = read_mapping(item, ("prompt",), ("lang",), lists=("choices",))
            prompt, choices = values["prompt"], values.get("choices", choices)
            lang = values.get("lang", lang)
        return [
            self.model.encode(
                TextItem(prompt, choice, lang), truncation=options.truncation, max_length=options.max_length
            )
            for choice in _checked(choices, prompt)
        ]

    def forward(self, batch: list[TokenSequence], options: MultipleChoiceOptions) -> Callable[[], list[float]]:
        wait = self.model.start(batch)
        return lambda: list(map(float, wait()["logits"][:, 0]))

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[float], options: MultipleChoiceOptions
    ) -> Choice:
        scores = softmax(np.array(outputs, np.float32))
        best = int(scores.argmax())
        return {
            "choice": rows[best].text_pair or "",
            "index": best,
            "score": float(scores[best]),
            "scores": [float(score) for score in scores],
        }


def _checked(choices: Any, prompt: str) -> Sequence[str]:
    """The choices, if they are two strings or more.

    Raises:
        InputError: they are not.
    """
    if not is_column(choices) or len(choices) < 2:
        raise InputError(f"The prompt '{prompt[:40]}' needs a list of two or more choices.")
    if not all(isinstance(choice, str) for choice in choices):
        raise InputError(f"The choices of the prompt '{prompt[:40]}' must be strings.")
    checked: Sequence[str] = choices
    return checked
