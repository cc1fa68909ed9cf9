"""A call's padding and truncation, read as Hugging Face reads them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from xlm_runtime.errors import InputError

PADDING = ("longest", "max_length", "do_not_pad")
TRUNCATION = ("longest_first", "only_first", "only_second", "do_not_truncate")
SIDES = ("left", "right")
# what becomes of line ends, tabs and other white space that normalisation deletes
WHITESPACE = ("delete", "space")

# how Hugging Face writes "no limit" as a model's longest input
NO_LIMIT = int(1e30)
_LONGEST_LIMIT = 10**20


class Padding(NamedTuple):
    """How rows are filled up: a strategy of `PADDING`, the length of "max_length", a multiple, and a side."""

    strategy: str = "do_not_pad"
    max_length: int | None = None
    multiple_of: int | None = None
    side: str = "right"


class Truncation(NamedTuple):
    """How texts are cut: a strategy of `TRUNCATION`, to `max_length` tokens with special ones, from a side.

    With `overflow`, what is cut off gives further windows, which share `stride` tokens with the one before.
    """

    strategy: str = "do_not_truncate"
    max_length: int | None = None
    side: str = "right"
    stride: int = 0
    overflow: bool = False


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
) -> tuple[Padding, Truncation]:
    """Check a call's options.

    Args:
        padding: a strategy of `PADDING`, or True for "longest" and False for none.
        truncation: a strategy of `TRUNCATION`, or True for "longest_first" and False for none; None is none too,
            unless `max_length` is given and nothing is padded.
        max_length: tokens of a row, special ones included; by default the model's.
        stride: tokens that windows share.
        pad_to_multiple_of: padded rows have a multiple of so many tokens.
        padding_side: of `SIDES`.
        truncation_side: of `SIDES`.
        overflow: whether what is cut off gives rows of its own.
        model_max_length: the model's longest input; `NO_LIMIT` for none.

    Raises:
        InputError: an option is not known, has another type, or contradicts another one.
    """
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
) -> tuple[Padding, Truncation]:
    if max_length is not None and padding is False and truncation is None:
        truncation = "longest_first"
    pad = "longest" if padding is True else "do_not_pad" if padding is False else padding
    cut = "longest_first" if truncation is True else "do_not_truncate" if truncation in (None, False) else truncation
    _one_of("padding", pad, PADDING)
    _one_of("truncation", cut, TRUNCATION)
    _one_of("padding_side", padding_side, SIDES)
    _one_of("truncation_side", truncation_side, SIDES)
    _count("max_length", max_length, 0)
    _count("stride", stride, 0)
    _count("pad_to_multiple_of", pad_to_multiple_of, 1)
    if max_length is None:
        bounded = model_max_length <= _LONGEST_LIMIT
        pad = pad if bounded or pad != "max_length" else "do_not_pad"
        cut = cut if bounded else "do_not_truncate"
        if pad == "max_length" or cut != "do_not_truncate":
            max_length = model_max_length
    cuts_and_pads = cut != "do_not_truncate" and pad != "do_not_pad"
    if cuts_and_pads and pad_to_multiple_of and max_length is not None and max_length % pad_to_multiple_of:
        raise InputError(f"max_length={max_length} is not a multiple of pad_to_multiple_of={pad_to_multiple_of}.")
    return (
        Padding(pad, max_length, pad_to_multiple_of, padding_side),
        Truncation(str(cut), max_length, truncation_side, stride, overflow),
    )


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r} is not known; use one of: {', '.join(allowed)}.")


def _count(name: str, value: object, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least):
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}.")
