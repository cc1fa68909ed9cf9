"""From the scores of all windows of one question to its answers, best first.

The beam head (Yang et al. 2019, XLNet) gives each window its best starts and for each of them the best ends. Its ends
are flattened (end_n_top, start_n_top): entry e * start_n_top + s is the e-th end of start s. Its `*_log_probs` are
probabilities in spite of their name. The simple head gives each token a score as a start and one as an end.

An answer's logit is log P(start) + log P(end | start) with the beam head, and the sum of both scores with the simple
head. Published rules (SQuAD 2.0's scripts): the null logit is the lowest of the windows', and the null score, which is
held against the threshold, is the null logit itself with the beam head and its lead over the best answer with the
simple one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.numerics import log_sum_exp, sigmoid
from xlm_runtime.question_answering.features import ContextTokens, Window

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

NO_SPAN_LOGIT = -2e6
"""The logit of a question without any possible span, below all others (SQuAD's scripts: -1e6 for start and end)."""


class Span(NamedTuple):
    """An answer, context[start:end]: its probability, its logit, and the two terms of the logit."""

    score: float
    start: int
    end: int
    logit: float
    start_logit: float
    end_logit: float


class Decoding(NamedTuple):
    """The best spans, best first, and "no answer": its probability (0 unless it is allowed), logit and score.

    `null_terms` are the start and end logits that the null logit is the sum of, with the simple head.
    """

    spans: list[Span]
    null_probability: float
    null_logit: float
    null_score: float
    null_terms: tuple[float, float] | None = None


class Candidates(NamedTuple):
    """n spans of a context's tokens, both ends included: int64 (n,), and their scores, float64 (n,)."""

    starts: IntArray
    ends: IntArray
    start_scores: FloatArray
    end_scores: FloatArray

    def take(self, which: NDArray[Any]) -> Candidates:
        """Those at the given indices, or where a mask is true."""
        return Candidates(self.starts[which], self.ends[which], self.start_scores[which], self.end_scores[which])


def decode_beam(
    windows: Sequence[Window],
    outputs: Sequence[Mapping[str, NDArray[Any]]],
    *,
    start_n_top: int,
    end_n_top: int,
    max_answer_len: int,
    count: int,
    with_null: bool,
) -> Decoding:
    """Answers of the beam head.

    Args:
        windows: all windows of one question on one context.
        outputs: for each window its row of `start_top_log_probs` and `start_top_index` (start_n_top,),
            `end_top_log_probs` and `end_top_index` (end_n_top * start_n_top,), `cls_logits` ().
        max_answer_len: in tokens.
        count: how many spans.
        with_null: whether "no answer" takes part in the probabilities: it has sigmoid(null logit), the spans share
            the rest.

    Returns:
        Spans with distinct characters. A span's probability is P(start) * P(end | start) in its best window; where the
        windows' probabilities sum to more than 1, they are divided by their sum.
    """
    stacked = {name: np.stack([output[name] for output in outputs]) for name in _BEAM_OUTPUTS}
    rows = len(windows)
    # (windows, 1, start_n_top) and (windows, end_n_top, start_n_top)
    start_p = stacked["start_top_log_probs"].astype(np.float64)[:, None, :]
    end_p = stacked["end_top_log_probs"].astype(np.float64).reshape(rows, end_n_top, start_n_top)
    # positions in the window → tokens of the context
    shift = np.array([window.offset - window.first for window in windows])[:, None, None]
    stop = np.array([window.offset + window.count for window in windows])[:, None, None]
    offset = np.array([window.offset for window in windows])[:, None, None]
    end = stacked["end_top_index"].reshape(rows, end_n_top, start_n_top) + shift
    start = np.broadcast_to(stacked["start_top_index"][:, None, :] + shift, end.shape)
    inside = (offset <= start) & (start <= end) & (end < stop) & (end - start < max_answer_len)
    possible = inside & (start_p > 0) & (end_p > 0)  # entries that only fill the beam have probability 0
    found = Candidates(
        start[possible],
        end[possible],
        np.log(np.broadcast_to(start_p, end.shape)[possible]),
        np.log(end_p[possible]),
    )
    context = windows[0].context
    allowed = context.answerable[found.starts] & context.answerable[found.ends]
    merged = merge_spans(found.take(allowed), context)
    logits = merged.start_scores + merged.end_scores
    null_logit = float(stacked["cls_logits"].min())
    null_probability = float(sigmoid(np.float64(null_logit))) if with_null else 0.0
    probabilities = np.exp(logits)
    probabilities *= (1 - null_probability) / max(1.0, float(probabilities.sum()))
    return Decoding(_spans(merged, context, probabilities, count), null_probability, null_logit, null_logit)


_BEAM_OUTPUTS = ("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index", "cls_logits")


def decode_simple(
    windows: Sequence[Window],
    outputs: Sequence[Mapping[str, NDArray[Any]]],
    *,
    max_answer_len: int,
    count: int,
    with_null: bool,
) -> Decoding:
    """Answers of the simple head: every span is looked at, not only those of a few best starts and ends.

    Args:
        windows: all windows of one question on one context.
        outputs: for each window its row of `start_logits` and `end_logits` (sequence,), padding allowed.
        max_answer_len: in tokens.
        count: how many spans.
        with_null: whether "no answer" takes part in the probabilities.

    Returns:
        Spans with distinct characters. A span's probability is that of its start times that of its end, each a
        softmax over the tokens of the whole context (a token's highest logit of all windows) and, `with_null`, the
        null token.
    """
    context = windows[0].context
    tokens = len(context.ids)
    longest = min(max_answer_len, max(tokens, 1))
    # [token, length - 1]: the best start and end logits of the span over the windows that hold it
    best_start = np.full((tokens, longest), -np.inf)
    best_end = np.full((tokens, longest), -np.inf)
    token_logits = np.full((2, tokens), -np.inf)
    nulls: list[tuple[float, float]] = []
    lengths = np.arange(longest)
    for window, output in zip(windows, outputs, strict=True):
        part = slice(window.offset, window.offset + window.count)
        there = slice(window.first, window.first + window.count)
        starts, ends = (output[name].astype(np.float64) for name in ("start_logits", "end_logits"))
        nulls.append((float(starts[window.cls_index]), float(ends[window.cls_index])))
        start, end = (np.where(context.answerable[part], logits[there], -np.inf) for logits in (starts, ends))
        token_logits[:, part] = np.maximum(token_logits[:, part], (start, end))
        padded_end = np.concatenate((end, np.full(longest, -np.inf)))
        ends_of = padded_end[np.arange(window.count)[:, None] + lengths]
        better = start[:, None] + ends_of > best_start[part] + best_end[part]
        best_start[part] = np.where(better, start[:, None], best_start[part])
        best_end[part] = np.where(better, ends_of, best_end[part])
    null_start, null_end = min(nulls, key=sum)
    null_logit = null_start + null_end
    logits = (best_start + best_end).ravel()
    merged = _best_merged(logits, best_start, best_end, context, count)
    extra = ([null_start], [null_end]) if with_null else ([], [])
    norm = sum(log_sum_exp(np.concatenate((row, more))) for row, more in zip(token_logits, extra, strict=True))
    merged_logits = merged.start_scores + merged.end_scores
    spans = _spans(merged, context, np.exp(merged_logits - norm), count)
    best = spans[0].logit if spans else NO_SPAN_LOGIT
    null_probability = float(np.exp(null_logit - norm)) if with_null else 0.0
    return Decoding(spans, null_probability, null_logit, null_logit - best, (null_start, null_end))


def _best_merged(
    logits: FloatArray, start_scores: FloatArray, end_scores: FloatArray, context: ContextTokens, count: int
) -> Candidates:
    """The `count` best spans of the (tokens, lengths) scores with distinct characters, at least, if there are as many.

    Sorting all of them would cost more than the rest of the decoding.
    """
    possible = int(np.isfinite(logits).sum())
    longest = start_scores.shape[1]
    taken = min(possible, 2 * count)
    while True:
        kept = np.flatnonzero(logits >= np.partition(logits, -taken)[-taken]) if taken else np.zeros(0, np.int64)
        starts, extra = np.divmod(kept, longest)
        candidates = Candidates(starts, starts + extra, start_scores.ravel()[kept], end_scores.ravel()[kept])
        merged = merge_spans(candidates, context)
        if len(merged.starts) >= count or taken == possible:
            return merged
        taken = min(possible, 4 * taken)


def merge_spans(found: Candidates, context: ContextTokens) -> Candidates:
    """The best of the candidates with the same characters; by descending logit, then first and shortest first."""
    begin = context.spans[found.starts, 0]
    stop = context.spans[found.ends, 1]
    order = np.lexsort((stop, begin, -(found.start_scores + found.end_scores)))
    _, firsts = np.unique(begin[order] * (len(context.text) + 1) + stop[order], return_index=True)
    return found.take(order[np.sort(firsts)])


def _spans(merged: Candidates, context: ContextTokens, probabilities: FloatArray, count: int) -> list[Span]:
    begin = context.spans[merged.starts[:count], 0].tolist()
    stop = context.spans[merged.ends[:count], 1].tolist()
    columns = (merged.start_scores[:count].tolist(), merged.end_scores[:count].tolist(), probabilities[:count].tolist())
    return [
        Span(score, a, b, start_logit + end_logit, start_logit, end_logit)
        for a, b, start_logit, end_logit, score in zip(begin, stop, *columns, strict=True)
    ]
