"""Logit processors: each changes the scores of the next token, in place, for one reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from xlm_runtime.generation.decoder import Logits, Prompt
from xlm_runtime.generation.options import GenerationOptions
from xlm_runtime.numerics import kth_highest, probabilities


class Growing(Protocol):
    """A sequence under way."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def new_ids(self) -> list[int]: ...


class Processor(Protocol):
    """Changes one row's scores of the next token."""

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        """`scores` is (vocab_size,); tokens that must not come get -inf."""
        ...


class RepetitionPenalty:
    """Positive scores of tokens that are there already are divided by the penalty, negative ones multiplied."""

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        seen = np.unique(np.array([*sequence.prompt.input_ids, *sequence.new_ids], np.int64))
        values = scores[seen]
        scores[seen] = np.where(values < 0, values * self._penalty, values / self._penalty)


class NoRepeatNgram:
    """Forbids tokens that would complete a sequence of `size` tokens for the second time."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        ids = [*sequence.prompt.input_ids, *sequence.new_ids]
        before = self._size - 1
        tail = ids[len(ids) - before :]
        found = [ids[i + before] for i in range(len(ids) - before) if ids[i : i + before] == tail]
        scores[found] = -np.inf


class BadWords:
    """Forbids the last token of each of the prompt's `bad_words` where the others have just come."""

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        for *start, last in sequence.prompt.bad_words:
            recent = [*sequence.prompt.input_ids, *sequence.new_ids][-len(start) :] if start else []
            if recent == start:
                scores[last] = -np.inf


class MinNewTokens:
    """Forbids the end of the text before there are `least` new tokens."""

    def __init__(self, least: int, eos_ids: Sequence[int]) -> None:
        self._least = least
        self._eos_ids = list(eos_ids)

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        if len(sequence.new_ids) < self._least:
            scores[self._eos_ids] = -np.inf


class Temperature:
    """Divides the scores."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        scores /= self._temperature


class TopK:
    """Keeps the best `count` tokens, and those that score like the last of them."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        if self._count < len(scores):
            scores[scores < kth_highest(scores, self._count)] = -np.inf


class TopP:
    """Keeps the fewest best tokens whose probabilities reach `mass` (Holtzman et al. 2020)."""

    def __init__(self, mass: float) -> None:
        self._mass = mass

    def __call__(self, sequence: Growing, scores: Logits) -> None:
        order = np.argsort(-scores, kind="stable")
        reached = np.cumsum(probabilities(scores[order]))
        kept = int(np.searchsorted(reached, self._mass)) + 1
        scores[order[kept:]] = -np.inf


def make_processors(options: GenerationOptions, eos_ids: Sequence[int], bad_words: bool) -> list[Processor]:
    """The processors that `options` ask for, in Hugging Face's order."""
    found: list[Processor] = []
    if options.repetition_penalty != 1:
        found.append(RepetitionPenalty(options.repetition_penalty))
    if options.no_repeat_ngram_size:
        found.append(NoRepeatNgram(options.no_repeat_ngram_size))
    if bad_words:
        found.append(BadWords())
    if options.min_new_tokens:
        found.append(MinNewTokens(options.min_new_tokens, eos_ids))
    if options.temperature != 1:
        found.append(Temperature(options.temperature))
    if options.top_k is not None:
        found.append(TopK(options.top_k))
    if options.top_p < 1:
        found.append(TopP(options.top_p))
    return found
