"""Which of several endings fits a beginning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import FloatArray, softmax
from xlm_runtime.pipelines.base import Languages, read_mapping, respond


class Choice(TypedDict):
    """The best choice, its number and probability, and the probabilities of all choices in the order given."""

    choice: str
    index: int
    score: float
    scores: list[float]


@dataclass(frozen=True)
class _Question:
    prompt: str
    choices: Sequence[str]
    lang: str | None


class MultipleChoicePipeline:
    """Multiple choice: each choice is read with the prompt, as a pair of texts."""

    def __init__(self, model: BundleModel) -> None:
        self.model = model

    def __call__(
        self,
        prompts: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]],
        choices: Sequence[str] | None = None,
        *,
        lang: Languages = None,
        truncation: bool = False,
    ) -> Choice | list[Choice] | Iterator[Choice]:
        """For each prompt the best choice.

        Args:
            prompts: prompts, or dictionaries with "prompt", "choices" and "lang".
            choices: for all prompts that come without choices of their own; two or more.
            lang: language of all prompts, or a list with one for each.
            truncation: cut prompts and choices that together are longer than the model's positions, the longer
                first, instead of refusing them.

        Raises:
            InputError: fewer than two choices, empty or too long texts, an unknown language.
        """

        def read_question(item: Any, language: str | None) -> _Question:
            if isinstance(item, str):
                return _Question(item, _checked(choices, item), language)
            values = read_mapping(item, ("prompt",), ("lang",), lists=("choices",))
            own = values.get("choices", choices)
            return _Question(values["prompt"], _checked(own, values["prompt"]), values.get("lang", language))

        def encode(question: _Question) -> list[TokenSequence]:
            return [
                self.model.encode(TextItem(question.prompt, choice, question.lang), truncation=truncation)
                for choice in question.choices
            ]

        def read(batch: list[TokenSequence]) -> list[tuple[str, float]]:
            # each sequence is a row with one choice, so that the choices of a question can be in different batches
            logits = self.model.run(batch)["logits"][:, 0]
            return [(row.text_pair or "", float(logit)) for row, logit in zip(batch, logits, strict=True)]

        def answer(questions: Iterator[_Question]) -> Iterator[Choice]:
            for group in self.model.answer((encode(question) for question in questions), read):
                yield _choose([choice for choice, _ in group], np.array([logit for _, logit in group], np.float32))

        return respond(prompts, lang, read_question, answer)


def _checked(choices: Any, prompt: str) -> Sequence[str]:
    if choices is None or isinstance(choices, str) or len(choices) < 2:
        raise InputError(f"The prompt '{prompt[:40]}' needs a list of two or more choices.")
    if not all(isinstance(choice, str) for choice in choices):
        raise InputError(f"The choices of the prompt '{prompt[:40]}' must be strings.")
    checked: Sequence[str] = choices
    return checked


def _choose(choices: list[str], logits: FloatArray) -> Choice:
    scores = softmax(logits)
    best = int(scores.argmax())
    return {
        "choice": choices[best],
        "index": best,
        "score": float(scores[best]),
        "scores": [float(score) for score in scores],
    }
