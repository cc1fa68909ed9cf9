"""Cutting texts to a length: one window of each, or several that overlap."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.options import Truncation


class Window(NamedTuple):
    """Ranges of a sample's first and second sequence that make one row."""

    first: tuple[int, int]
    second: tuple[int, int] | None


def windows(first: int, second: int | None, added: int, options: Truncation) -> list[Window]:
    """Cut a sample to the length that the options say.

    Args:
        first: tokens of the first sequence.
        second: tokens of the second; None where there is none.
        added: special tokens that come to them.

    Returns:
        One window without overflow. With it, the cut sequence gives windows that share `stride` tokens, and the other
        sequence is repeated in full.

    Raises:
        InputError: the strategy cannot reach the length.
    """
    whole = Window((0, first), None if second is None else (0, second))
    limit = options.max_length
    excess = 0 if limit is None else first + (second or 0) + added - limit
    if limit is None or excess <= 0 or options.strategy == "do_not_truncate":
        return [whole]
    if options.strategy == "longest_first" and second is not None:
        return [_cut_both(first, second, excess, added, options)]
    if options.strategy == "only_second" and second is None:
        return [whole]
    cut_is_second = options.strategy == "only_second"
    length = (second or 0) if cut_is_second else first
    room = length - excess
    if room < 0 or (options.overflow and room < 1):
        raise InputError(
            f"max_length={limit} cannot be reached with truncation='{options.strategy}': {excess} tokens are too "
            f"many and that sequence has {length}. Use a larger max_length or another strategy."
        )
    if not options.overflow:
        ranges = [_keep(length, excess, options.side)]
    else:
        if options.stride >= room:
            raise InputError(f"stride={options.stride} must be smaller than the window of {room} tokens.")
        ranges = _strided(length, room, options.stride, options.side)
    if cut_is_second:
        return [Window(whole.first, kept) for kept in ranges]
    return [Window(kept, whole.second) for kept in ranges]


def overlapping(length: int, room: int, stride: int) -> list[tuple[int, int]]:
    """Windows of `room` tokens over `length`, each sharing at least `stride` with the one before.

    All are full, unless one holds everything: the last begins early rather than with little before it.
    """
    if length <= room:
        return [(0, length)]
    starts = [*range(0, length - room, room - stride), length - room]
    return [(start, start + room) for start in starts]


def most_context(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The part of each window whose tokens are farther from its ends than from those of its neighbours.

    The parts follow each other without gaps: a token between two windows belongs to the one in whose half it stands.
    """
    middles = [(start + stop + 1) // 2 for (_, stop), (start, _) in pairwise(ranges)]
    edges = [ranges[0][0], *middles, ranges[-1][1]]
    return list(pairwise(edges))


def _cut_both(first: int, second: int, excess: int, added: int, options: Truncation) -> Window:
    if options.overflow:
        raise InputError(
            "Overflowing windows of a pair need truncation='only_first' or 'only_second', got 'longest_first'."
        )
    cut_first, cut_second = _longest_first(first, second, excess)
    if cut_first > first or cut_second > second:
        raise InputError(f"max_length={options.max_length} leaves no room beside {added} special tokens.")
    return Window(_keep(first, cut_first, options.side), _keep(second, cut_second, options.side))


def _longest_first(first: int, second: int, excess: int) -> tuple[int, int]:
    """How much each loses: first the difference from the longer, then half of the rest from both."""
    difference = min(abs(second - first), excess)
    rest = excess - difference
    if first > second:
        return difference + rest // 2, rest - rest // 2
    return rest // 2, difference + rest - rest // 2


def _keep(length: int, cut: int, side: str) -> tuple[int, int]:
    return (cut, length) if side == "left" else (0, length - cut)


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
