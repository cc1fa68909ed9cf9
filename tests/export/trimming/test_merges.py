"""Which merges have to stay: for drawn tables, vocabularies and words, held against the tokenizer's own merging."""

from __future__ import annotations

import random

import pytest

from tests.paths import SHARED
from xlm_export.trimming.merges import derivation, initial_symbols, kept_merges, result
from xlm_runtime.tokenization.bpe import END_OF_WORD, BytePairs
from xlm_runtime.tokenization.word_files import read_words

LETTERS = "abc"


def draw_table(rng: random.Random) -> dict[str, int]:
    """Merges of drawn pairs, the ranks in no order that training would give."""
    symbols = [letter + end for letter in LETTERS for end in ("", END_OF_WORD)]
    pairs: list[str] = []
    for _ in range(rng.randint(5, 40)):
        first = rng.choice([symbol for symbol in symbols if not symbol.endswith(END_OF_WORD)])
        second = rng.choice(symbols)
        pairs.append(f"{first} {second}")
        symbols.append(first + second)
    rng.shuffle(pairs)
    return {pair: rank for rank, pair in enumerate(dict.fromkeys(pairs))}


def draw_word(rng: random.Random) -> str:
    return "".join(rng.choices(LETTERS, k=rng.randint(1, 14)))


@pytest.mark.parametrize("seed", range(4))
def test_words_whose_symbols_are_kept_are_merged_as_before(seed: int) -> None:
    rng = random.Random(seed)
    same = lost = 0
    for _ in range(60):
        ranks = draw_table(rng)
        symbols = sorted({part for pair in ranks for part in (*pair.split(), result(pair))})
        vocabulary = {symbol for symbol in symbols if rng.random() < 0.8}  # the others are <unk>
        wanted = {symbol for symbol in vocabulary if rng.random() < 0.3}
        merges = kept_merges(wanted, ranks, vocabulary)
        assert list(merges) == [pair for pair in sorted(ranks, key=ranks.__getitem__) if pair in merges]
        kept = wanted | {symbol for symbol in map(result, merges) if symbol in vocabulary}
        before, now = BytePairs(ranks), BytePairs(merges)
        for _ in range(60):
            word = draw_word(rng)
            full = before.symbols(word)
            if all(symbol in kept or symbol not in vocabulary for symbol in full):
                assert now.symbols(word) == full, (ranks, vocabulary, wanted, word)
                same += 1
            else:
                # what comes in a dropped word's place are words that are kept, single characters, or <unk>
                parts = now.symbols(word)
                assert "".join(parts) == word + END_OF_WORD
                assert all(part in kept or part not in vocabulary or len(initial_symbols(part)) == 1 for part in parts)
                lost += 1
    assert same > 200
    assert lost > 200


def test_a_derivation_is_what_merging_does_alone() -> None:
    ranks = {"a b": 2, "b c": 1, "a bc": 3, "ab c": 0, "b c</w>": 4}
    assert derivation("abc", ranks) == ["b c", "a bc"]
    assert derivation("abc</w>", ranks) is None, "a b goes first, and ab c</w> is no merge"
    assert derivation("a", ranks) == []
    assert derivation("c</w>", ranks) == []
    assert derivation("", ranks) == []
    assert derivation("aaa", {"a a": 0, "aa a": 1}) == ["a a", "aa a"]
    assert derivation("aaaa", {"a a": 0, "aa a": 1}) is None


def test_a_merge_by_the_way_is_kept_though_it_is_no_word() -> None:
    ranks = {"a b": 0, "ab c</w>": 1, "c d": 2, "cd e</w>": 3, "ab d": 4}
    merges = kept_merges({"abc</w>"}, ranks, {"abc</w>", "cde</w>", "cd", "abd", *"abcd", "c</w>", "e</w>"})
    # ab is <unk>: what makes a word of it stays
    assert list(merges) == ["a b", "ab c</w>", "ab d"]


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no reference data at {SHARED}")
def test_a_real_table_has_one_derivation_for_each_word() -> None:
    folder = SHARED / "xlm-clm-ende-1024"
    vocabulary, ranks, _ = read_words(folder / "vocab.json", folder / "merges.txt")
    rng = random.Random(0)
    wanted = set(rng.sample(sorted(vocabulary), 1000))
    merges = kept_merges(wanted, ranks, vocabulary)
    assert len(merges) < 4000
    pairs = BytePairs(merges)
    words = [word for word in wanted if word.endswith(END_OF_WORD) and word != END_OF_WORD]
    assert len(words) > 500
    for word in words:
        assert pairs.symbols(word.removesuffix(END_OF_WORD)) == [word]
