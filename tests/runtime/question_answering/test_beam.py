"""Decoding: equal to a slow implementation on random scores, and the cases that its rules are for."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from tests.runtime.question_answering import reference as slow
from xlm_runtime.question_answering.answers import rank_answers, shape_answer
from xlm_runtime.question_answering.beam import Decoding, Span, decode_beam, decode_simple
from xlm_runtime.question_answering.features import ContextTokens, Window
from xlm_runtime.question_answering.options import QuestionAnsweringOptions

OPTIONS = QuestionAnsweringOptions(max_seq_len=384, doc_stride=128, max_question_len=64)


def ranked(decoding: Decoding) -> slow.Ranked:
    return [(span.logit, span.start, span.end) for span in decoding.spans]


def same(ours: slow.Ranked, expected: slow.Ranked) -> None:
    assert [item[1:] for item in ours] == [item[1:] for item in expected]
    np.testing.assert_allclose([item[0] for item in ours], [item[0] for item in expected], rtol=1e-12)


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("seed", range(300))
def test_the_beam_equals_the_slow_decoder(seed: int) -> None:
    rng = random.Random(seed)
    windows = slow.random_windows(rng)
    start_n_top, end_n_top, max_answer_len = rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 6)
    outputs = slow.random_beam(rng, windows, start_n_top, end_n_top)
    expected = slow.slow_beam(windows, outputs, start_n_top, end_n_top, max_answer_len)
    count = rng.choice([1, 3, 1000])
    for with_null in (False, True):
        decoding = decode_beam(
            windows,
            outputs,
            start_n_top=start_n_top,
            end_n_top=end_n_top,
            max_answer_len=max_answer_len,
            count=count,
            with_null=with_null,
        )
        same(ranked(decoding), expected[:count])
        null = min(float(output["cls_logits"]) for output in outputs)
        assert (decoding.null_logit, decoding.null_score) == (null, null)
        rest = 1 - sigmoid(null) if with_null else 1.0
        mass = max(1.0, sum(math.exp(logit) for logit, _, _ in expected))
        for span in decoding.spans:
            assert span.score == pytest.approx(rest * math.exp(span.logit) / mass)
            assert span.start_logit + span.end_logit == pytest.approx(span.logit)


@pytest.mark.parametrize("seed", range(200))
def test_the_simple_head_equals_the_slow_decoder(seed: int) -> None:
    rng = random.Random(seed)
    windows = slow.random_windows(rng)
    outputs = slow.random_logits(rng, windows)
    max_answer_len, count = rng.randint(1, 6), rng.choice([1, 3, 1000])
    expected = slow.slow_simple(windows, outputs, max_answer_len)
    for with_null in (False, True):
        decoding = decode_simple(windows, outputs, max_answer_len=max_answer_len, count=count, with_null=with_null)
        same(ranked(decoding), expected[:count])
        nulls = [
            (float(output["start_logits"][window.cls_index]), float(output["end_logits"][window.cls_index]))
            for window, output in zip(windows, outputs, strict=True)
        ]
        null = min(nulls, key=sum)
        assert decoding.null_logit == pytest.approx(sum(null))
        assert decoding.null_score == pytest.approx(sum(null) - (expected[0][0] if expected else -2e6))
        norm = simple_norm(windows, outputs, null if with_null else None)
        for span in decoding.spans:
            assert span.score == pytest.approx(math.exp(span.logit) / norm)
        if with_null:
            assert decoding.null_probability == pytest.approx(math.exp(sum(null)) / norm)
        total = sum(span.score for span in decoding.spans) + decoding.null_probability
        assert total <= 1 + 1e-9


def simple_norm(windows: list[Window], outputs: list[Any], null: tuple[float, float] | None) -> float:
    """The product of both softmaxes' denominators: each token once, with its highest logit."""
    product = 1.0
    for which, name in enumerate(("start_logits", "end_logits")):
        best: dict[int, float] = {}
        for window, output in zip(windows, outputs, strict=True):
            for i in range(window.count):
                token = window.offset + i
                if window.context.answerable[token]:
                    best[token] = max(best.get(token, -math.inf), float(output[name][window.first + i]))
        values = [*best.values(), *([null[which]] if null else [])]
        product *= sum(map(math.exp, values)) if values else 1.0
    return product


def words(count: int, first: int = 3) -> Window:
    """One window over a context of `count` one-letter words."""
    text = "a " * count
    spans = np.array([(2 * i, 2 * i + 1) for i in range(count)], np.int64)
    context = ContextTokens(text, [9] * count, spans, np.ones(count, dtype=bool))
    return Window(context, [0] * first + [9] * count + [1], first, 0, count, first - 1, 0, 0)


def test_the_layout_is_ends_by_starts() -> None:
    """Two starts, at the words 0 and 5, with two ends each: 0 or 1 behind the start."""
    window = words(8)
    output = {
        "start_top_log_probs": np.array([0.6, 0.3], np.float32),
        "start_top_index": np.array([3, 8], np.int64),
        "end_top_log_probs": np.array([0.9, 0.7, 0.05, 0.2], np.float32),  # (end, start): first ends, then second ends
        "end_top_index": np.array([3, 8, 4, 9], np.int64),
        "cls_logits": np.float32(0),
    }
    decoding = decode_beam([window], [output], start_n_top=2, end_n_top=2, max_answer_len=30, count=9, with_null=False)
    assert [(span.start, span.end) for span in decoding.spans] == [(0, 1), (10, 11), (10, 13), (0, 3)]
    assert [span.score for span in decoding.spans] == pytest.approx([0.54, 0.21, 0.06, 0.03])


def test_answers_may_begin_at_the_last_word() -> None:
    window = words(4)
    output = {
        "start_top_log_probs": np.array([0.9], np.float32),
        "start_top_index": np.array([6], np.int64),
        "end_top_log_probs": np.array([0.9], np.float32),
        "end_top_index": np.array([6], np.int64),
        "cls_logits": np.float32(0),
    }
    decoding = decode_beam([window], [output], start_n_top=1, end_n_top=1, max_answer_len=1, count=1, with_null=False)
    assert (decoding.spans[0].start, decoding.spans[0].end) == (6, 7)


def test_many_equal_characters_do_not_crowd_out_other_answers() -> None:
    """Thirty tokens on one character give many spans that are the same answer."""
    spans = np.array([(0, 1)] * 30 + [(2, 3)], np.int64)
    context = ContextTokens("a b", [9] * 31, spans, np.ones(31, dtype=bool))
    window = Window(context, [0, 7, 1, *[9] * 31, 1], 3, 0, 31, 2, 0, 0)
    output = {name: np.array([0, 0, 0, *[5] * 30, -5, 0], np.float32) for name in ("start_logits", "end_logits")}
    decoding = decode_simple([window], [output], max_answer_len=30, count=3, with_null=False)
    assert {(span.start, span.end) for span in decoding.spans} == {(0, 1), (0, 3), (2, 3)}


def decoded(*, null_score: float, null_probability: float = 0.3) -> Decoding:
    return Decoding(
        [Span(0.5, 0, 1, -0.7, -0.3, -0.4), Span(0.1, 0, 3, -2.3, -1, -1.3)], null_probability, 7, null_score
    )


@pytest.mark.parametrize(
    ("null_score", "threshold", "allowed", "expected"),
    [
        (1.0, 0.0, False, ["a", "a b"]),
        (1.0, 0.0, True, ["", "a", "a b"]),
        (1.0, 1.0, True, ["a", "", "a b"]),
        (-1.0, 0.0, True, ["a", "", "a b"]),
        (-1.0, -2.0, True, ["", "a", "a b"]),
    ],
)
def test_the_threshold_decides(null_score: float, threshold: float, allowed: bool, expected: list[str]) -> None:
    options = QuestionAnsweringOptions(
        384, 128, 64, handle_impossible_answer=allowed, null_score_diff_threshold=threshold
    )
    answers = rank_answers("a b", decoded(null_score=null_score), options)
    assert [item["answer"] for item in answers] == expected
    assert all(item["null_score"] == null_score for item in answers)


def test_a_threshold_keeps_the_best_span_first_even_where_none_is_likelier() -> None:
    options = QuestionAnsweringOptions(384, 128, 64, handle_impossible_answer=True, null_score_diff_threshold=2)
    answers = rank_answers("a b", decoded(null_score=1.0, null_probability=0.9), options)
    assert [item["answer"] for item in answers] == ["a", "", "a b"]


def test_without_any_span_the_answer_is_empty() -> None:
    answer = shape_answer("a b", [Decoding([], 0.0, 1.0, 1.0)], OPTIONS)
    assert answer == {"score": 0.0, "start": 0, "end": 0, "answer": "", "logit": -2e6, "null_score": 1.0}
