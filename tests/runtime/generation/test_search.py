"""The search against brute force, on a language model that is a table."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from xlm_runtime import GenerationOptions
from xlm_runtime.generation.decoder import Logits, Prompt
from xlm_runtime.generation.processors import make_processors
from xlm_runtime.generation.search import Hypothesis, make_strategy, search

WORDS, EOS = 5, 4
TABLE = np.random.default_rng(0).normal(size=(WORDS, WORDS)).astype(np.float32) * 1.5
LOG_PROBS = TABLE - np.log(np.exp(TABLE).sum(axis=1, keepdims=True))
PROMPTS = [Prompt([0]), Prompt([2, 3]), Prompt([1])]


class TableDecoder:
    """Scores by the last token alone; notes how many rows each step had."""

    def __init__(self) -> None:
        self.last: list[int] = []
        self.rows: list[int] = []

    def start(self, prompts: Sequence[Prompt]) -> Logits:
        self.last = [prompt.input_ids[-1] for prompt in prompts]
        return TABLE[self.last]

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Logits:
        assert all(0 <= parent < len(self.last) for parent in parents)
        self.last = list(tokens)
        self.rows.append(len(tokens))
        return TABLE[self.last]


def run(options: GenerationOptions, prompts: Sequence[Prompt] = PROMPTS) -> list[list[Hypothesis]]:
    options = replace(options, eos_token_id=(EOS,))

    def ending(ids: list[int]) -> str | None:
        return "eos" if ids[-1] == EOS else "length" if len(ids) == options.max_new_tokens else None

    strategy = make_strategy(prompts, options, make_processors(options, (EOS,), bad_words=False), ending)
    *_, found = search(TableDecoder(), prompts, strategy)
    return found


def log_prob(prompt: Prompt, ids: Sequence[int]) -> float:
    return float(sum(LOG_PROBS[a, b] for a, b in itertools.pairwise([prompt.input_ids[-1], *ids])))


def all_sequences(length: int) -> list[tuple[int, ...]]:
    """Every sequence that ends with the end token, or at `length` without it."""
    return [
        ids
        for size in range(1, length + 1)
        for ids in itertools.product(range(WORDS), repeat=size)
        if EOS not in ids[:-1] and (ids[-1] == EOS or size == length)
    ]


def test_greedy() -> None:
    for prompt, (sequence,) in zip(PROMPTS, run(GenerationOptions(max_new_tokens=7, return_scores=True)), strict=True):
        expected = list(prompt.input_ids)
        while len(expected) < len(prompt) + 7 and expected[-1] != EOS:
            expected.append(int(TABLE[expected[-1]].argmax()))
        assert sequence.new_ids == expected[len(prompt) :]
        assert sequence.score == pytest.approx(log_prob(prompt, sequence.new_ids), rel=1e-5)
        assert sum(sequence.log_probs) == pytest.approx(sequence.score, rel=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_wide_beams_find_the_best_sequences_of_all(penalty: float) -> None:
    """With as many beams as there are sequences nothing is cut, and "never" ends no earlier than is safe."""
    length = 4
    everything = all_sequences(length)
    options = GenerationOptions(
        max_new_tokens=length,
        num_beams=len(everything),
        num_return_sequences=5,
        length_penalty=penalty,
        early_stopping="never",
    )
    for prompt, found in zip(PROMPTS, run(options), strict=True):
        scores = {ids: log_prob(prompt, ids) / len(ids) ** penalty for ids in everything}
        best = sorted(everything, key=lambda ids: -scores[ids])[:5]
        assert [tuple(sequence.new_ids) for sequence in found] == best
        np.testing.assert_allclose([sequence.score for sequence in found], [scores[ids] for ids in best], rtol=1e-5)


@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.parametrize("beams", [2, 3])
def test_prompts_do_not_change_each_others_beams(beams: int, early_stopping: bool | str) -> None:
    options = GenerationOptions(max_new_tokens=9, num_beams=beams, early_stopping=early_stopping)
    for prompt, (together,) in zip(PROMPTS, run(options), strict=True):
        ((alone,),) = run(options, [prompt])
        assert (alone.new_ids, alone.score) == (together.new_ids, together.score)


def test_early_stopping_ends_with_the_first_finished_beams() -> None:
    early = run(GenerationOptions(max_new_tokens=30, num_beams=2, early_stopping=True))
    late = run(GenerationOptions(max_new_tokens=30, num_beams=2, early_stopping="never"))
    for (a,), (b,) in zip(early, late, strict=True):
        assert a.score <= b.score + 1e-6


def test_samples_follow_the_distribution() -> None:
    """Pearson's chi-squared test over sequences of two draws, under processors too."""
    draws = 4000
    for options, keep in (({}, WORDS), ({"top_k": 3, "temperature": 1.5}, 3)):
        wanted = GenerationOptions(max_new_tokens=2, do_sample=True, seed=5, num_return_sequences=draws, **options)
        (found,) = run(wanted, [PROMPTS[0]])
        counts = Counter(tuple(sequence.new_ids) for sequence in found)
        scores = TABLE / float(options.get("temperature", 1.0))
        scores = np.where(scores < np.sort(scores, axis=1)[:, [-keep]], -np.inf, scores)
        table = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        expected = {}
        for ids in all_sequences(2):
            probability = float(np.prod([table[a, b] for a, b in itertools.pairwise([0, *ids])]))
            if probability > 0:
                expected[ids] = probability * draws
        assert set(counts) <= set(expected)
        statistic = sum((counts[ids] - count) ** 2 / count for ids, count in expected.items())
        freedom = len(expected) - 1
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5, "four standard deviations above the mean"


def test_draws_are_repeatable_and_differ() -> None:
    options = GenerationOptions(max_new_tokens=8, do_sample=True, seed=1, num_return_sequences=4)
    first, second = run(options), run(options)
    assert [[s.new_ids for s in found] for found in first] == [[s.new_ids for s in found] for found in second]
    assert len({tuple(sequence.new_ids) for sequence in first[0]}) > 1
    (alone,) = run(options, PROMPTS[1:2])
    assert [sequence.new_ids for sequence in alone] == [sequence.new_ids for sequence in first[1]]
    other = run(replace(options, seed=2))
    assert [s.new_ids for s in other[0]] != [s.new_ids for s in first[0]]


def test_finished_rows_leave_the_batch() -> None:
    decoder = TableDecoder()
    options = GenerationOptions(max_new_tokens=6)

    def ending(ids: list[int]) -> str | None:
        return "length" if len(ids) == (3 if ids[0] == TABLE[0].argmax() else 6) else None

    for _ in search(decoder, PROMPTS, make_strategy(PROMPTS, options, [], ending)):
        pass
    assert decoder.rows[0] == 3
    assert decoder.rows[-1] < 3
    assert len(decoder.rows) == 5


def test_whoever_stops_taking_steps_ends_it() -> None:
    decoder = TableDecoder()
    steps = search(decoder, PROMPTS, make_strategy(PROMPTS, GenerationOptions(), [], lambda ids: None))
    next(steps)
    next(steps)
    steps.close()
    assert len(decoder.rows) == 1
