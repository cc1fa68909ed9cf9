"""Each processor of scores by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from xlm_runtime import GenerationOptions
from xlm_runtime.generation.decoder import Prompt
from xlm_runtime.generation.processors import make_processors
from xlm_runtime.generation.search import Hypothesis
from xlm_runtime.numerics import log_softmax, probabilities

INF = np.inf


def processed(options: GenerationOptions, sequence: Hypothesis, scores: list[float]) -> list[float]:
    values = np.array(scores, np.float32)
    for process in make_processors(options, (1,), bool(sequence.prompt.bad_words)):
        process(sequence, values)
    return values.tolist()


def sequence(prompt: list[int], new: list[int], bad: tuple[tuple[int, ...], ...] = ()) -> Hypothesis:
    return Hypothesis(Prompt(prompt, bad_words=bad), new)


def test_nothing_asked_for_is_nothing_done() -> None:
    assert make_processors(GenerationOptions(), (1,), bad_words=False) == []


def test_repetition_penalty() -> None:
    got = processed(GenerationOptions(repetition_penalty=2.0), sequence([0, 1, 1], [2]), [4, -4, 1, 3])
    assert got == [2, -8, 0.5, 3]


@pytest.mark.parametrize(("size", "banned"), [(1, {0, 1, 2}), (2, {2, 0}), (3, {0})], ids=lambda value: str(value))
def test_no_repeat_ngram(size: int, banned: set[int]) -> None:
    # 0 1 2 1 0 1 2 1: behind "1" came 2 and 0, behind "2 1" came 0
    ids = sequence([0, 1, 2, 1], [0, 1, 2, 1])
    got = processed(GenerationOptions(no_repeat_ngram_size=size), ids, [1, 1, 1, 1])
    assert {i for i, value in enumerate(got) if value == -INF} == banned


def test_a_sequence_shorter_than_the_ngram_is_free() -> None:
    assert processed(GenerationOptions(no_repeat_ngram_size=3), sequence([0], []), [1, 1]) == [1, 1]


def test_bad_words() -> None:
    bad = ((3,), (0, 1), (2, 2, 0))
    assert processed(GenerationOptions(), sequence([2, 0], [], bad), [1, 1, 1, 1]) == [1, -INF, 1, -INF]
    assert processed(GenerationOptions(), sequence([2], [2], bad), [1, 1, 1, 1]) == [-INF, 1, 1, -INF]


def test_min_new_tokens() -> None:
    options = GenerationOptions(min_new_tokens=2)
    assert processed(options, sequence([0, 0, 0], [2]), [1, 1]) == [1, -INF]
    assert processed(options, sequence([0], [2, 2]), [1, 1]) == [1, 1]


def test_temperature_top_k_and_top_p() -> None:
    def draws(**options: float) -> GenerationOptions:
        return GenerationOptions(do_sample=True, **options)  # type: ignore[arg-type]

    scores = np.log([0.1, 0.5, 0.15, 0.25]).tolist()
    start = sequence([0], [])
    np.testing.assert_allclose(processed(draws(temperature=2.0), start, scores), np.array(scores) / 2, rtol=1e-6)
    kept: Callable[[GenerationOptions], set[int]] = lambda options: {  # noqa: E731
        i for i, value in enumerate(processed(options, start, scores)) if value > -INF
    }
    assert kept(draws(top_k=2)) == {1, 3}
    assert kept(draws(top_k=9)) == {0, 1, 2, 3}
    assert kept(draws(top_p=0.4)) == {1}
    assert kept(draws(top_p=0.6)) == {1, 3}
    assert kept(draws(top_p=0.95)) == {0, 1, 2, 3}
    assert kept(draws(top_k=3, top_p=0.6)) == {1, 3}


def test_probabilities() -> None:
    scores = np.array([1000.0, 999.0, -np.inf], np.float32)
    np.testing.assert_allclose(probabilities(scores), [np.e / (1 + np.e), 1 / (1 + np.e), 0])
    np.testing.assert_allclose(np.exp(log_softmax(scores[:2])).sum(), 1, rtol=1e-6)
