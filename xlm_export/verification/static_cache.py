"""Whole generations of a graph with a static cache, beside those of the portable graph that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from xlm_export.verification.generations import GenerationCase, run_case
from xlm_runtime.sessions import Array, Session
from xlm_runtime.tasks import NEXT, PAST, PRESENT, SEQLENS_K

_ROOM, _JUNK = 3, 1e3  # places behind the longest row, and what stands there


def prompts_and_steps(cases: Iterable[GenerationCase]) -> list[GenerationCase]:
    """The cases as one prompt with a token or more in each row, and steps of one token; without those in which a row
    has none."""
    found = []
    for case in cases:
        padding = (case.inputs["attention_mask"] == 0).sum(axis=1)
        total = case.inputs["attention_mask"].shape[1]
        if padding.max() < total:
            first = min(max(case.pieces[0], int(padding.max()) + 1), total)
            found.append(replace(case, pieces=(first, *[1] * (total - first))))
    return found


def run_beside(
    reference: Session, candidate: Session, case: GenerationCase
) -> Iterator[tuple[dict[str, Array], dict[str, Array], Array]]:
    """Step by step, both given the same tokens: the portable graph's outputs, those of the graph with a static cache in
    the same shapes, and (batch,) bool, whether its `next_*` are a best token, its place and one token more.

    Args:
        case: one of `prompts_and_steps`.
    """
    steps = zip(
        run_case(reference, case, lambda mask: np.arange(1, len(mask) + 1) * mask.shape[1] - 1),
        _run_static(candidate, case),
        _real_columns(case),
        strict=True,
    )
    for want, got, (real, lengths) in steps:
        for name, value in want.items():
            if name.startswith(PRESENT):  # (batch, n_heads, columns, head_dim)
                want[name] = value * real[:, None, :, None]
                got[name] = _last_tokens(got[name], lengths, real)
        logits = got["logits"]  # of two tokens with one score in half precision either is the best
        follows = np.take_along_axis(logits, got[f"{NEXT}input_ids"], axis=1)[:, 0] == logits.max(axis=1)
        follows &= got[f"{NEXT}position_ids"][:, 0] == lengths
        follows &= got[f"{NEXT}{SEQLENS_K}"] == lengths
        yield want, got, follows


def _real_columns(case: GenerationCase) -> Iterator[tuple[Array, Array]]:
    """Of each piece: (batch, columns) bool, which tokens are real, and (batch,), those of each row so far."""
    mask = case.inputs["attention_mask"] != 0
    for end, size in zip(np.cumsum(case.pieces), case.pieces, strict=True):
        yield mask[:, end - size : end], mask[:, :end].sum(axis=1)


def _run_static(session: Session, case: GenerationCase) -> Iterator[dict[str, Array]]:
    """The graph's outputs for each piece, with the logits at each row's last token."""
    empty = next(iter(case.past.inputs.values()))
    batch, total = case.inputs["input_ids"].shape
    shape = (batch, empty.shape[1], total + _ROOM, empty.shape[3])
    past: dict[str, Array] = {name: np.full(shape, _JUNK, np.float32) for name in case.past.inputs}
    start = 0
    for size, (real, lengths) in zip(case.pieces, _real_columns(case), strict=True):
        counts = real.sum(axis=1)
        # from padding on the left to padding on the right, which may hold anything
        columns = np.minimum(np.arange(size) + (size - counts)[:, None], size - 1)
        feed = {
            name: np.take_along_axis(value[:, start : start + size], columns, axis=1)
            for name, value in case.inputs.items()
            if name != "attention_mask"
        }
        feed["logit_positions"] = np.arange(batch) * size + counts - 1
        feed[SEQLENS_K] = (lengths - 1).astype(np.int32)
        outputs = session.run({**feed, **past})
        past = {name: outputs[name.replace(PAST, PRESENT, 1)] for name in past}
        start += size
        yield dict(outputs)


def _last_tokens(buffer: Array, lengths: Array, real: Array) -> Array:
    """(batch, n_heads, columns, head_dim): the tokens at `real`, which are the last of each row; zeros elsewhere."""
    found = np.zeros((*buffer.shape[:2], real.shape[1], buffer.shape[3]), buffer.dtype)
    for row, (length, columns) in enumerate(zip(lengths, real, strict=True)):
        found[row, :, columns] = buffer[row, :, length - columns.sum() : length].swapaxes(0, 1)
    return found
