"""Learning byte-pair merges (Sennrich et al. 2016) in fastBPE's way: `</w>` at the end of words, counts kept."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import pairwise

from xlm_runtime.tokenization.bpe import END_OF_WORD

SPECIALS = ("<s>", "</s>", "<pad>", "<unk>", *(f"<special{i}>" for i in range(10)))
# in the vocabulary whatever the text holds, with and without `</w>`
LETTERS = (
    "abcdefghijklmnopqrstuvwxyzабвгдежзийклмнопрстуфхцчшщъыьэюяابتثجحخدذرزسشصضطظعغفقكلمنهويىةءئؤ0123456789-.,'&?!:;()\""
)

Pair = tuple[str, str]


def learn_vocabulary(
    words: Mapping[str, int], size: int, min_char_count: int = 2
) -> tuple[dict[str, int], list[tuple[str, str, int]]]:
    """The vocabulary, special tokens first, and the merges with their counts.

    Args:
        words: how often each word occurs.
        size: entries of the vocabulary; fewer where the text has no pairs left that occur twice.
        min_char_count: characters (with or without `</w>`) that are rarer are left unknown.
    """
    pieces = {word: [*word[:-1], word[-1] + END_OF_WORD] for word in words}
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for piece in pieces[word]:
            characters[piece] += count
    frequent = sorted((c for c, n in characters.items() if n >= min_char_count), key=lambda c: (-characters[c], c))
    symbols = [symbol for letter in LETTERS for symbol in (letter, letter + END_OF_WORD)]
    vocabulary = dict.fromkeys([*SPECIALS, *symbols, *frequent])
    merges: list[tuple[str, str, int]] = []
    for left, right, count in _merges(pieces, words):
        if len(vocabulary) >= size or count < 2:
            break
        if left in vocabulary and right in vocabulary:
            merges.append((left, right, count))
            vocabulary[left + right] = None
    return {symbol: i for i, symbol in enumerate(vocabulary)}, merges


def _merges(pieces: dict[str, list[str]], words: Mapping[str, int]):  # type: ignore[no-untyped-def]
    """Yield (left, right, count), the most frequent pair first; ties go by the pair itself."""
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[str]] = defaultdict(set)
    for word, parts in pieces.items():
        for pair in pairwise(parts):
            counts[pair] += words[word]
            where[pair].add(word)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    while heap:
        negative, pair = heapq.heappop(heap)
        if counts[pair] != -negative:  # an outdated entry
            continue
        yield *pair, -negative
        changed: set[Pair] = set()
        for word in where.pop(pair):
            parts = pieces[word]
            for old in pairwise(parts):
                counts[old] -= words[word]
                changed.add(old)
            pieces[word] = parts = _join(parts, pair)
            for new in pairwise(parts):
                counts[new] += words[word]
                where[new].add(word)
                changed.add(new)
        counts[pair] = 0
        for other in changed:
            if counts[other] > 0:
                heapq.heappush(heap, (-counts[other], other))


def _join(parts: list[str], pair: Pair) -> list[str]:
    joined: list[str] = []
    skip = False
    for i, part in enumerate(parts):
        if skip:
            skip = False
        elif i + 1 < len(parts) and (part, parts[i + 1]) == pair:
            joined.append(part + parts[i + 1])
            skip = True
        else:
            joined.append(part)
    return joined
