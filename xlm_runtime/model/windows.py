"""Texts that are longer than the model's rows: windows that overlap, and their outputs as those of one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import FloatArray
from xlm_runtime.tokenization.windows import most_context, overlapping

# special tokens around one text
_EDGES = 2


def check_stride(model: BundleModel, stride: int | None, truncation: bool, max_length: int | None) -> None:
    """Whether a text's lengths fit the model and each other.

    Raises:
        InputError: they do not.
    """
    longest = model.longest_row(max_length)
    if stride is None:
        return
    if truncation:
        raise InputError("truncation cuts long texts and stride reads all of them in windows; choose one.")
    if not isinstance(stride, int) or isinstance(stride, bool) or not 0 <= stride < longest - _EDGES:
        raise InputError(
            f"stride is {stride!r}; windows of {longest} tokens, special ones included, can share from 0 to "
            f"{longest - _EDGES - 1}."
        )


def encode_windows(
    model: BundleModel, item: TextItem, *, stride: int, max_length: int | None = None, return_offsets: bool = False
) -> list[TokenSequence]:
    """Tokenize a text to rows that the model can read: one, or windows that share `stride` tokens or more.

    Each window keeps (`kept`) the positions of those tokens that it shows with the most context on both sides; the
    first also those of the token before the text, and the last those of the token behind it. So what all keep is one
    sequence again.

    Args:
        max_length: see `BundleModel.longest_row`.
        return_offsets: also return each token's characters and word.

    Raises:
        InputError: an empty text, or an unknown language.
    """
    whole = model.tokenize(item, return_offsets=return_offsets)
    ids, spans, words = whole.input_ids[1:-1], whole.spans, whole.word_ids
    ranges = overlapping(len(ids), model.longest_row(max_length) - _EDGES, stride)
    if len(ranges) == 1:
        return [whole]
    rows = []
    for (start, stop), (first, last) in zip(ranges, most_context(ranges), strict=True):
        kept = slice(first - start + 1 if start else 0, last - start + 1 if stop < len(ids) else stop - start + _EDGES)
        rows.append(
            replace(
                whole,
                input_ids=model.tokenizer.build_inputs_with_special_tokens(ids[start:stop]),
                spans=None if spans is None else [(0, 0), *spans[start + 1 : stop + 1], (0, 0)],
                word_ids=None if words is None else [None, *words[start + 1 : stop + 1], None],
                kept=kept,
            )
        )
    return rows


def join_windows(rows: Sequence[TokenSequence]) -> TokenSequence:
    """The sequence that windows were cut from."""
    if len(rows) == 1:
        return rows[0]
    parts = [(row, row.kept or slice(None)) for row in rows]
    with_spans = rows[0].spans is not None
    return replace(
        rows[0],
        input_ids=list(chain.from_iterable(row.input_ids[kept] for row, kept in parts)),
        spans=list(chain.from_iterable((row.spans or [])[kept] for row, kept in parts)) if with_spans else None,
        word_ids=list(chain.from_iterable((row.word_ids or [])[kept] for row, kept in parts)) if with_spans else None,
        kept=None,
    )


def join_outputs(rows: Sequence[TokenSequence], outputs: Sequence[FloatArray]) -> FloatArray:
    """(sequence, …) of the whole text from such an array of each window."""
    if len(rows) == 1:
        return outputs[0]
    return np.concatenate([output[row.kept or slice(None)] for row, output in zip(rows, outputs, strict=True)])
