"""Slow, obvious decoders of both heads, and random windows and scores for them."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

from xlm_runtime.question_answering.features import ContextTokens, Window

# one answer: (logit, first character, character behind the last); the best first
Ranked = list[tuple[float, int, int]]


def rank(found: dict[tuple[int, int], float]) -> Ranked:
    return sorted(((logit, *span) for span, logit in found.items()), key=lambda item: (-item[0], item[1], item[2]))


def slow_beam(
    windows: list[Window], outputs: list[dict[str, Any]], start_n_top: int, end_n_top: int, max_answer_len: int
) -> Ranked:
    """Every start, every end of it, every window; the best of each span of characters."""
    found: dict[tuple[int, int], float] = {}
    for window, output in zip(windows, outputs, strict=True):
        for s in range(start_n_top):
            for e in range(end_n_top):
                start_p = float(output["start_top_log_probs"][s])
                end_p = float(output["end_top_log_probs"][e * start_n_top + s])
                start = int(output["start_top_index"][s])
                end = int(output["end_top_index"][e * start_n_top + s])
                span = characters(window, start, end, max_answer_len)
                if start_p > 0 and end_p > 0 and span is not None:
                    found[span] = max(found.get(span, -math.inf), math.log(start_p) + math.log(end_p))
    return rank(found)


def slow_simple(windows: list[Window], outputs: list[dict[str, Any]], max_answer_len: int) -> Ranked:
    """Every pair of positions of every window."""
    found: dict[tuple[int, int], float] = {}
    for window, output in zip(windows, outputs, strict=True):
        for start in range(len(window)):
            for end in range(len(window)):
                span = characters(window, start, end, max_answer_len)
                if span is not None:
                    logit = float(output["start_logits"][start]) + float(output["end_logits"][end])
                    found[span] = max(found.get(span, -math.inf), logit)
    return rank(found)


def characters(window: Window, start: int, end: int, max_answer_len: int) -> tuple[int, int] | None:
    """The characters of the positions start to end, or None where they cannot be an answer."""
    if not window.first <= start <= end < window.first + window.count or end - start + 1 > max_answer_len:
        return None
    first, last = start - window.first + window.offset, end - window.first + window.offset
    if not (window.context.answerable[first] and window.context.answerable[last]):
        return None
    return int(window.context.spans[first][0]), int(window.context.spans[last][1])


def random_windows(rng: random.Random) -> list[Window]:
    """Windows over a context of 0 to 14 tokens, some of which share characters or cannot be an answer."""
    count = rng.randint(0, 14)
    at, spans = 0, []
    for _ in range(count):
        if spans and rng.random() < 0.15:
            spans.append(spans[-1])
            continue
        start = at + rng.randint(0, 1)
        at = start + rng.randint(1, 3)
        spans.append((start, at))
    context = ContextTokens(
        text="x" * (at + 2),
        ids=[9] * count,
        spans=np.array(spans, np.int64).reshape(-1, 2),
        answerable=np.array([rng.random() < 0.9 for _ in range(count)], dtype=bool),
    )
    question = rng.randint(1, 3)
    room, stride = rng.randint(2, 7), rng.randint(1, 3)
    windows, start = [], 0
    while True:
        length = min(room, count - start)
        ids = [0, *[7] * question, 1, *[9] * length, 1]
        cls_index = rng.choice([0, question + 1, len(ids) - 1])
        windows.append(Window(context, ids, question + 2, start, length, cls_index, 0, 0))
        if start + length >= count:
            return windows
        start += min(stride, length)


def random_beam(rng: random.Random, windows: list[Window], start_n_top: int, end_n_top: int) -> list[dict[str, Any]]:
    """What the beam head could give for the windows; some entries only fill the beam, some scores are equal."""
    outputs = []
    for window in windows:

        def probabilities(size: int) -> np.ndarray:
            values = [0.0 if rng.random() < 0.2 else rng.choice([0.25, rng.random()]) for _ in range(size)]
            return np.array(sorted(values, reverse=True), np.float32)

        length, ends = len(window), start_n_top * end_n_top
        outputs.append(
            {
                "start_top_log_probs": probabilities(start_n_top),
                "start_top_index": np.array([rng.randrange(length) for _ in range(start_n_top)], np.int64),
                "end_top_log_probs": probabilities(ends),
                "end_top_index": np.array([rng.randrange(length) for _ in range(ends)], np.int64),
                "cls_logits": np.float32(rng.uniform(-3, 3)),
            }
        )
    return outputs


def random_logits(rng: random.Random, windows: list[Window]) -> list[dict[str, Any]]:
    """What the simple head could give, with padding behind; some scores are equal."""
    longest = max(map(len, windows)) + 1

    def logits() -> np.ndarray:
        return np.array([rng.choice([0.5, rng.uniform(-4, 4)]) for _ in range(longest)], np.float32)

    return [{"start_logits": logits(), "end_logits": logits()} for _ in windows]
