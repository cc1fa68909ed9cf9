"""Plain functions of arrays that more than one room needs: scores from logits, the best of many, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities along the last axis, in the type of the logits."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: FloatArray = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def log_softmax(logits: NDArray[Any]) -> NDArray[Any]:
    """Log-probabilities along the last axis, in the type of the logits."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: NDArray[Any] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def probabilities(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Softmax of (n,) scores in double precision; -inf gives 0."""
    weights = np.exp((scores - scores.max()).astype(np.float64))
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def log_sum_exp(values: NDArray[np.float64]) -> float:
    """log(sum(exp(values))) of (n,) values; 0 where all are -inf, or there are none."""
    highest = float(values.max(initial=-np.inf))
    if highest == -np.inf:
        return 0.0
    return highest + float(np.log(np.exp(values - highest).sum()))


def sigmoid(logits: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + e^-x) in the type of the logits, written such that e^x never overflows."""
    small = np.exp(-np.abs(logits))
    result: NDArray[Any] = np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(logits.dtype)
    return result


def top_k(scores: NDArray[Any], count: int | None) -> NDArray[np.int64]:
    """Indices of the `count` highest of (n,) scores (None for all), the highest first, ties in their order."""
    if count == 1:
        return np.array([scores.argmax()])
    if count is None or count >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = kth_highest(scores, count)
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]


def kth_highest(scores: NDArray[Any], k: int) -> Any:
    """The k-th highest of (n,) scores, k from 1 to n."""
    return np.partition(scores, len(scores) - k)[len(scores) - k]


def pad(rows: Sequence[Sequence[int] | IntArray], value: int, *, left: bool = False) -> tuple[IntArray, IntArray]:
    """Rows of unequal length as one array, and the mask that tells which of its entries are real.

    Args:
        value: fills the rows up.
        left: fill them up in front, so that all end at the same place.

    Returns:
        Two int64 arrays (rows, longest row).
    """
    longest = max(map(len, rows))
    padded = np.full((len(rows), longest), value, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if left else slice(len(row))
        padded[i, place] = row
        mask[i, place] = 1
    return padded, mask


def broadcast_rows(values: Sequence[int], length: int) -> IntArray:
    """One number a row → (rows, length) int64, each row full of its number."""
    return np.repeat(np.asarray(values, np.int64)[:, None], length, axis=1)


def move_positions(positions: IntArray, old: int, new: int) -> IntArray:
    """Flat indices into rows of `old` places, as indices into rows of `new` places."""
    row, column = np.divmod(positions, max(old, 1))
    return row * new + column
