"""Byte-pair merges against the published loop."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization import reference
from tests.runtime.tokenization.steps import check_near_linear
from tests.runtime.tokenization.strategies import plain_words
from xlm_runtime.tokenization.bpe import BytePairs, parse_merges

LETTERS = "abcde"
PARTS = st.text(alphabet=LETTERS, min_size=1, max_size=3)
RANKS = st.lists(st.tuples(PARTS, PARTS, st.booleans()), max_size=30).map(
    lambda pairs: {f"{a} {b}{'</w>' if end else ''}": rank for rank, (a, b, end) in enumerate(pairs)}
)


@given(plain_words, RANKS)
def test_merges_equal_the_published_loop(word: str, ranks: dict[str, int]) -> None:
    assert BytePairs(ranks).symbols(word) == reference.byte_pairs(word, ranks)


def test_all_occurrences_of_one_pair_merge_before_any_new_pair() -> None:
    # one occurrence at a time would let "abc a" (rank 0) take the second "a" away
    ranks = {"abc a": 0, "b c": 1, "a bc": 2}
    word = "abcabcx"
    assert BytePairs(ranks).symbols(word) == ["abc", "abc", "x</w>"] == reference.byte_pairs(word, ranks)
    long_word = "abc" * 30
    assert BytePairs(ranks).symbols(long_word) == reference.byte_pairs(long_word, ranks)


@pytest.mark.parametrize("columns", ["", " 17"])
def test_two_and_three_columns(columns: str) -> None:
    assert parse_merges(f"l o{columns}\nlo w{columns}\n") == {"l o": 0, "lo w": 1}


def test_what_follows_the_last_line_break_is_dropped() -> None:
    assert parse_merges("l o\nlo w") == {"l o": 0}


def test_lines_that_white_space_splits_oddly() -> None:
    assert parse_merges("a b\n\u3000 c 5\n\nd e\na b\n") == {"a b": 4, "c 5": 1, "": 2, "d e": 3}


def test_a_word_with_a_space_is_torn_as_hugging_face_tears_it() -> None:
    assert BytePairs({}).symbols(" ") == ["", "</w>"]
    assert BytePairs({}).symbols("\n ") == ["\n</w>"]
    assert BytePairs({}).symbols("a b") == ["a", "", "", "b</w>"]


class CountedRanks(dict[str, int]):
    """Ranks that count how often they are looked up and compared."""

    def __init__(self, pairs: Iterable[str]) -> None:
        self.steps = 0

        class Rank(int):
            def __lt__(rank, other: int) -> bool:  # noqa: N805
                self.steps += 1
                return int.__lt__(rank, other)

            def __eq__(rank, other: object) -> bool:  # noqa: N805
                self.steps += 1
                return int.__eq__(rank, other)

            __hash__ = int.__hash__

        self._rank = Rank
        super().__init__((pair, Rank(number)) for number, pair in enumerate(pairs))

    def get(self, pair: str, default: int) -> int:  # type: ignore[override]
        self.steps += 1
        return self._rank(super().get(pair, default))


FEW_MERGES = ("a b", "ab c", "d e", "a a", "aa aa", "abc de")
# every pair of these letters, so that nearly every merge of a made-up word is a rank of its own
MANY_LETTERS = [chr(ord("a") + i) for i in range(26)] + [chr(0x430 + i) for i in range(32)]
MANY_MERGES = tuple(f"{a} {b}" for a in MANY_LETTERS for b in MANY_LETTERS)


def made_up_word(size: int) -> str:
    return "".join(random.Random(0).choices(MANY_LETTERS, k=size))


@pytest.mark.parametrize(
    ("unit", "merges"), [("a", FEW_MERGES), ("ab", FEW_MERGES), ("abcde", FEW_MERGES), (None, MANY_MERGES)]
)
def test_long_words_take_near_linear_steps(unit: str | None, merges: tuple[str, ...]) -> None:
    def steps(size: int) -> int:
        word = made_up_word(size) if unit is None else unit * (size // len(unit))
        ranks = CountedRanks(merges)
        assert "".join(BytePairs(ranks).symbols(word)) == word + "</w>"
        return ranks.steps

    check_near_linear(steps, 5_000)


@pytest.mark.parametrize("word", ["a" * 200_000, "ab" * 100_000, "abcde" * 40_000])
def test_very_long_words(word: str) -> None:
    ranks = {pair: number for number, pair in enumerate(FEW_MERGES)}
    assert "".join(BytePairs(ranks).symbols(word)) == word + "</w>"
