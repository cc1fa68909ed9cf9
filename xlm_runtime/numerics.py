"""Scores from logits, in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import InputError

FloatArray = NDArray[np.float32]


def softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: FloatArray = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + e^-x), written such that e^x never overflows."""
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def best_first(scores: FloatArray, count: int | None) -> NDArray[Any]:
    """Indices of the `count` highest of (n,) scores (None for all), the highest first, ties in their order."""
    if count is None or count >= len(scores):
        return np.argsort(-scores, kind="stable")
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    candidates = np.flatnonzero(scores >= least)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:count]


def check_top_k(top_k: int | None) -> None:
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r}; expected a positive number, or None for all.")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"Unknown {name} '{value}'; expected one of {', '.join(known)}.")
