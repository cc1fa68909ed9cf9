"""Byte-pair merges: the pair of lowest rank first, all its occurrences from left to right, until none is left."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping
from operator import add

END_OF_WORD = "</w>"
_LINE_START = re.compile(r"^(\S+ \S+)?", re.MULTILINE)
_NO_RANK = 1 << 62
# up to here scanning all pairs again after each merge is quicker than keeping a heap
_SHORT = 24


def parse_merges(text: str) -> dict[str, int]:
    """Read `merges.txt`, of two or three columns.

    As Hugging Face reads it: what follows the last line break is dropped, further columns are ignored, a line's rank
    is its number, and of equal pairs the last counts.

    Returns:
        The rank of each pair, keyed "first second".
    """
    keys = _LINE_START.findall(text)[:-1]
    odd = [number for number, key in enumerate(keys) if not key] if "" in keys else []
    if odd:
        lines = text.split("\n")
        for number in odd:
            keys[number] = " ".join(lines[number].split()[:2])
    return dict(zip(keys, range(len(keys)), strict=True))


class BytePairs:
    """The merges of one vocabulary. Threads may share them.

    Args:
        ranks: rank of each pair, keyed "first second", as `parse_merges` gives them.
    """

    def __init__(self, ranks: Mapping[str, int]) -> None:
        self.ranks = ranks
        self._inside = _CharacterPairs(ranks, "")
        self._at_end = _CharacterPairs(ranks, END_OF_WORD)

    def symbols(self, word: str) -> list[str]:
        """Split a word, which must not be empty, into its subwords; the last carries `</w>`.

        n log n in the word's length.
        """
        symbols = self._short(word) if len(word) <= _SHORT else None
        if symbols is None:
            symbols = _merge_long([*word[:-1], word[-1] + END_OF_WORD], self.ranks)
        if " " in word:
            # Hugging Face joins with spaces and splits again, which tears symbols that hold one
            joined = " ".join(symbols)
            return ("\n" + END_OF_WORD if joined == "\n  </w>" else joined).split(" ")
        return symbols

    def _short(self, word: str) -> list[str] | None:
        """Scans the ranks of all pairs of neighbours before each merge, and merges the first of the lowest.

        None where a merge makes a pair of a still lower rank: of the merges that training gives, none does, and it does
        not matter whether equal pairs merge one after the other or together.
        """
        get = self.ranks.get
        symbols = list(word)
        pairs = list(map(self._inside.__getitem__, map(add, word, word[1:])))
        if pairs:
            pairs[-1] = self._at_end[word[-2:]]
        symbols[-1] += END_OF_WORD
        while pairs:
            best = min(pairs)
            if best == _NO_RANK:
                break
            i = pairs.index(best)
            joined = symbols[i] = symbols[i] + symbols.pop(i + 1)
            del pairs[i]
            if i:
                rank = pairs[i - 1] = get(f"{symbols[i - 1]} {joined}", _NO_RANK)
                if rank < best:
                    return None
            if i < len(pairs):
                rank = pairs[i] = get(f"{joined} {symbols[i + 1]}", _NO_RANK)
                if rank < best:
                    return None
        return symbols


class _CharacterPairs(dict[str, int]):
    """Two characters → the rank of their pair, with `ending` behind the second. Holds at most 16,384 pairs.

    A third of a word's pairs are looked up here, where the processor's caches hold all of them.
    """

    def __init__(self, ranks: Mapping[str, int], ending: str) -> None:
        super().__init__()
        self._rank = ranks.get
        self._ending = ending

    def __missing__(self, pair: str) -> int:
        if len(self) >= 16384:
            self.clear()
        rank = self[pair] = self._rank(f"{pair[0]} {pair[1]}{self._ending}", _NO_RANK)
        return rank


def _merge_long(symbols: list[str], ranks: Mapping[str, int]) -> list[str]:
    """A heap of (rank, position) over a linked list; all entries of one rank are taken before new pairs enter."""
    get = ranks.get
    size = len(symbols)
    after = list(range(1, size + 1))
    before = list(range(-1, size - 1))
    current = [get(f"{symbols[i]} {symbols[i + 1]}", _NO_RANK) for i in range(size - 1)] + [_NO_RANK]
    heap = [(rank, i) for i, rank in enumerate(current) if rank != _NO_RANK]
    heapq.heapify(heap)
    while heap:
        best = heap[0][0]
        merged: list[int] = []
        while heap and heap[0][0] == best:
            _, i = heapq.heappop(heap)
            if current[i] != best:
                continue
            j = after[i]
            symbols[i] += symbols[j]
            symbols[j] = ""
            current[j] = current[i] = _NO_RANK
            after[i] = after[j]
            if after[j] < size:
                before[after[j]] = i
            if before[i] >= 0:
                current[before[i]] = _NO_RANK
            merged.append(i)
        for i in merged:
            for left in (before[i], i):
                if left < 0 or not symbols[left] or after[left] >= size:
                    continue
                rank = get(f"{symbols[left]} {symbols[after[left]]}", _NO_RANK)
                if rank != current[left]:
                    current[left] = rank
                    if rank != _NO_RANK:
                        heapq.heappush(heap, (rank, left))
    return [symbol for symbol in symbols if symbol]
