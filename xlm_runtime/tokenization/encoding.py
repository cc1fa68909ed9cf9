"""What a call returns, and how sequences are cut to a length and padded to one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from xlm_runtime.errors import InputError

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("left", "right")


class Tokens(NamedTuple):
    """One tokenised sequence: ids, and when asked for one (start, end) in code points and one word number for each."""

    ids: list[int]
    spans: list[tuple[int, int]] | None = None
    words: list[int] | None = None


class Row(NamedTuple):
    """One row of a batch: a window of sample number `sample`, as ranges of its first and second sequence."""

    sample: int
    first: tuple[int, int]
    second: tuple[int, int] | None


class Options(NamedTuple):
    """Padding and truncation, checked. `max_length` counts special tokens; None where neither uses it."""

    padding: str
    truncation: str
    max_length: int | None
    stride: int
    pad_to_multiple_of: int | None
    padding_side: str
    truncation_side: str
    overflow: bool


class RowSource(Protocol):
    """Answers for each row of a batch, padding included."""

    def __len__(self) -> int: ...

    def tokens(self, index: int) -> list[str]: ...

    def sequence_ids(self, index: int) -> list[int | None]: ...

    def word_ids(self, index: int) -> list[int | None]: ...


class BatchEncoding(dict[str, Any]):
    """The model's inputs by name, also as attributes, and each row's tokens, words and sequences.

    Lists of lists (one list for a single text), or int64 arrays of shape (rows, sequence) with
    `return_tensors="np"`. `offset_mapping` holds (start, end) in code points of the text that the token stands in,
    (0, 0) for added special tokens and padding; tokens whose characters normalisation swapped share one span.
    """

    def __init__(self, data: dict[str, Any], rows: RowSource) -> None:
        super().__init__(data)
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"BatchEncoding has no '{name}', only: {', '.join(self)}.") from None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """A row's tokens as strings, padding included."""
        return self._rows.tokens(self._index(batch_index))

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 for the first sequence's tokens, 1 for the second's, None for added special tokens and padding."""
        return self._rows.sequence_ids(self._index(batch_index))

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The number of each token's word in its sequence, None for added special tokens and padding.

        Words are those of the tokeniser (punctuation is split off), or the given ones for text split into words.
        """
        return self._rows.word_ids(self._index(batch_index))

    def _index(self, index: int) -> int:
        count = len(self._rows)
        if not -count <= index < count:
            raise IndexError(f"Row {index} of a batch of {count}.")
        return index % count

    def __reduce__(self) -> tuple[Any, ...]:
        rows = range(len(self._rows))
        saved = _SavedRows(
            [self.tokens(i) for i in rows], [self.sequence_ids(i) for i in rows], [self.word_ids(i) for i in rows]
        )
        return BatchEncoding, (dict(self), saved)


class _SavedRows:
    """The rows of a `BatchEncoding` that was pickled: found once, without the tokenizer."""

    def __init__(
        self, tokens: list[list[str]], sequences: list[list[int | None]], words: list[list[int | None]]
    ) -> None:
        self._tokens = tokens
        self._sequences = sequences
        self._words = words

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, index: int) -> list[str]:
        return list(self._tokens[index])

    def sequence_ids(self, index: int) -> list[int | None]:
        return list(self._sequences[index])

    def word_ids(self, index: int) -> list[int | None]:
        return list(self._words[index])


def windows(sample: int, first: int, second: int | None, added: int, options: Options) -> list[Row]:
    """Cut a sample of `first` (and `second`) tokens, to which `added` special ones come, to `max_length`.

    One row without overflow. With it, the cut sequence gives windows that share `stride` tokens, and the other
    sequence is repeated in full. Raises `InputError` where the strategy cannot reach the length.
    """
    whole = Row(sample, (0, first), None if second is None else (0, second))
    limit = options.max_length
    excess = 0 if limit is None else first + (second or 0) + added - limit
    if limit is None or excess <= 0 or options.truncation == "do_not_truncate":
        return [whole]
    side = options.truncation_side
    if options.truncation == "longest_first" and second is not None:
        if options.overflow:
            raise InputError(
                "Overflowing windows of a pair need truncation='only_first' or 'only_second', got 'longest_first'."
            )
        cut_first, cut_second = _longest_first(first, second, excess)
        if cut_first > first or cut_second > second:
            raise InputError(f"max_length={limit} leaves no room beside {added} special tokens.")
        return [Row(sample, _keep(first, cut_first, side), _keep(second, cut_second, side))]
    if options.truncation == "only_second" and second is None:
        return [whole]
    cut_is_second = options.truncation == "only_second"
    length = (second or 0) if cut_is_second else first
    room = length - excess
    if room < 0 or (options.overflow and room < 1):
        raise InputError(
            f"max_length={limit} cannot be reached with truncation='{options.truncation}': {excess} tokens are too "
            f"many and that sequence has {length}. Use a larger max_length or another strategy."
        )
    if not options.overflow:
        ranges = [_keep(length, excess, side)]
    else:
        if options.stride >= room:
            raise InputError(f"stride={options.stride} must be smaller than the window of {room} tokens.")
        ranges = _strided(length, room, options.stride, side)
    if cut_is_second:
        return [Row(sample, whole.first, window) for window in ranges]
    return [Row(sample, window, whole.second) for window in ranges]


def _keep(length: int, cut: int, side: str) -> tuple[int, int]:
    return (cut, length) if side == "left" else (0, length - cut)


def _longest_first(first: int, second: int, excess: int) -> tuple[int, int]:
    """How much each loses: first the difference from the longer, then half of the rest from both."""
    difference = min(abs(second - first), excess)
    rest = excess - difference
    if first > second:
        return difference + rest // 2, rest - rest // 2
    return rest // 2, difference + rest - rest // 2


def _strided(length: int, room: int, stride: int, side: str) -> list[tuple[int, int]]:
    """Windows of `room` tokens, each sharing `stride` with the one before; from the end for side "left"."""
    step = room - stride
    ranges: list[tuple[int, int]] = []
    if side == "left":
        stop = length
        while True:
            ranges.append((max(0, stop - room), stop))
            if stop <= room:
                return ranges
            stop -= step
    start = 0
    while True:
        ranges.append((start, min(length, start + room)))
        if start + room >= length:
            return ranges
        start += step


def padded_length(lengths: Sequence[int], options: Options) -> int | None:
    """The common length of a batch's rows; None where they stay as they are."""
    if options.padding == "do_not_pad" or not lengths:
        return None
    target = max(lengths) if options.padding == "longest" else options.max_length
    multiple = options.pad_to_multiple_of
    if target is None or not multiple:
        return target
    return -(-target // multiple) * multiple


def pad(row: list[Any], length: int | None, value: object, side: str) -> list[Any]:
    """A row filled up to `length`; longer rows stay as they are."""
    if length is None or len(row) >= length:
        return row
    filling = [value] * (length - len(row))
    return filling + row if side == "left" else row + filling


def to_array(name: str, rows: list[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64, shape (rows, sequence) or with a last axis of 2 for offsets. Raises `InputError` for uneven rows."""
    lengths = {len(row) for row in rows if isinstance(row, list)}
    if len(lengths) > 1:
        raise InputError(
            f"'{name}' has rows of {min(lengths)} to {max(lengths)} tokens, which make no array. "
            "Use padding=True (and truncation=True for texts that are too long)."
        )
    return np.asarray(rows, dtype=np.int64)


def parse_options(
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    padding_side: str,
    truncation_side: str,
    overflow: bool,
    model_max_length: int,
) -> Options:
    """Check a call's padding and truncation as Hugging Face reads them. Raises `InputError` for what it refuses."""
    given = (
        padding,
        truncation,
        max_length,
        stride,
        pad_to_multiple_of,
        padding_side,
        truncation_side,
        overflow,
        model_max_length,
    )
    try:
        return _parse_options(*given)
    except TypeError as error:
        raise InputError(f"An option of padding or truncation has a type that no option has: {given!r}.") from error


@lru_cache(maxsize=64, typed=True)
def _parse_options(
    padding: bool | str,
    truncation: bool | str | None,
    max_length: int | None,
    stride: int,
    pad_to_multiple_of: int | None,
    padding_side: str,
    truncation_side: str,
    overflow: bool,
    model_max_length: int,
) -> Options:
    if max_length is not None and padding is False and truncation is None:
        truncation = "longest_first"
    pad_strategy = (
        {True: "longest", False: "do_not_pad"}.get(padding, padding) if isinstance(padding, bool) else padding
    )
    cut_strategy = (
        "do_not_truncate" if truncation in (None, False) else "longest_first" if truncation is True else truncation
    )
    _one_of("padding", pad_strategy, PADDING)
    _one_of("truncation", cut_strategy, TRUNCATION)
    _one_of("padding_side", padding_side, SIDES)
    _one_of("truncation_side", truncation_side, SIDES)
    for name, value, least in (
        ("max_length", max_length, 0),
        ("stride", stride, 0),
        ("pad_to_multiple_of", pad_to_multiple_of, 1),
    ):
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least):
            raise InputError(f"{name} must be an integer of at least {least}, got {value!r}.")
    unbounded = model_max_length > 10**20
    if max_length is None and pad_strategy == "max_length":
        pad_strategy, max_length = ("do_not_pad", None) if unbounded else (pad_strategy, model_max_length)
    if max_length is None and cut_strategy != "do_not_truncate":
        cut_strategy, max_length = ("do_not_truncate", None) if unbounded else (cut_strategy, model_max_length)
    if (
        cut_strategy != "do_not_truncate"
        and pad_strategy != "do_not_pad"
        and pad_to_multiple_of
        and max_length is not None
        and max_length % pad_to_multiple_of
    ):
        raise InputError(f"max_length={max_length} is not a multiple of pad_to_multiple_of={pad_to_multiple_of}.")
    return Options(
        str(pad_strategy),
        str(cut_strategy),
        max_length,
        stride,
        pad_to_multiple_of,
        padding_side,
        truncation_side,
        overflow,
    )


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r} is not known; use one of: {', '.join(allowed)}.")
