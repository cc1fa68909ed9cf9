"""Which byte-pair merges have to stay so that kept words come out of texts as before.

A symbol that ends up in a word's segmentation got there by merges within its own characters: nothing was ever merged
across its edges, and the pair of lowest rank in the whole word is, where it stands within the symbol, the lowest there,
too. So the merges behind a symbol are those of segmenting its characters alone, its *derivation*, whatever word it
stands in.

Let a smaller table hold the derivation of every kept symbol, each merge in its old order. In a word whose symbols are
all kept, each step of the full table merges a pair of some derivation; that pair is in the smaller table, and it is the
lowest there, since the smaller table ranks nothing that the full one does not. So both take the same steps, and end
alike. Further merges of the full table that stay do no harm, and none that is left out is missed.

What is merged on the way may come out of other words, whose last merge is gone: so it is kept as a word, too. Symbols
that are no word of the vocabulary, which texts get `<unk>` for, count as kept: their derivations stay, and the merges
by which they become part of a word.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from itertools import pairwise

from xlm_runtime.tokenization.bpe import END_OF_WORD

_NO_RANK = 1 << 62


def initial_symbols(symbol: str) -> list[str]:
    """The characters that merges make a symbol of; the last one carries the word's end if the symbol does."""
    word = symbol.removesuffix(END_OF_WORD)
    return [*word[:-1], word[-1] + END_OF_WORD] if word and word != symbol else list(symbol)


def derivation(symbol: str, ranks: Mapping[str, int]) -> list[str] | None:
    """The pairs that are merged in making a symbol of its characters, keyed "first second", in order.

    Args:
        ranks: of the pairs, see `BytePairs`.

    Returns:
        None where merges make something else of them, so that no text gets this symbol.
    """
    symbols, pairs = initial_symbols(symbol), []
    while len(symbols) > 1:
        best = min((f"{a} {b}" for a, b in pairwise(symbols)), key=lambda pair: ranks.get(pair, _NO_RANK))
        if best not in ranks:
            return None
        pairs.append(best)
        merged: list[str] = []
        for each in symbols:
            if merged and f"{merged[-1]} {each}" == best:
                merged[-1] += each
            else:
                merged.append(each)
        symbols = merged
    return pairs


def result(pair: str) -> str:
    """What a merge makes of a pair, keyed "first second"."""
    return pair.replace(" ", "", 1)


def kept_merges(symbols: Iterable[str], ranks: Mapping[str, int], vocabulary: Container[str]) -> dict[str, int]:
    """The merges that have to stay for these symbols, see above; ranked from 0 in their old order.

    The results of the merges have to be kept as words, as far as they are in the vocabulary.

    Args:
        symbols: the kept ones; those that no text gets need no merges.
        ranks: of all pairs.
        vocabulary: the symbols that are words.
    """
    known = {symbol for pair in ranks for symbol in (*pair.split(" "), result(pair))}
    strangers = {symbol for symbol in known if symbol not in vocabulary and derivation(symbol, ranks) is not None}
    beyond = {result(pair) for pair in ranks if not strangers.isdisjoint(pair.split(" "))}
    kept: set[str] = set()
    for symbol in {*symbols, *strangers, *beyond}:
        kept.update(derivation(symbol, ranks) or ())
    return {pair: rank for rank, pair in enumerate(sorted(kept, key=ranks.__getitem__))}
