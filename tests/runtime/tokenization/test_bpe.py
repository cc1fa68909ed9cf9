"""Byte-pair merges against the published loop."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization import reference
from tests.runtime.tokenization.strategies import plain_words
from xlm_runtime.tokenization.bpe import merge_symbols, parse_merges

LETTERS = "abcde"
PARTS = st.text(alphabet=LETTERS, min_size=1, max_size=3)
RANKS = st.lists(st.tuples(PARTS, PARTS, st.booleans()), max_size=30).map(
    lambda pairs: {f"{a} {b}{'</w>' if end else ''}": rank for rank, (a, b, end) in enumerate(pairs)}
)


@given(plain_words, RANKS)
def test_merges_equal_the_published_loop(word: str, ranks: dict[str, int]) -> None:
    assert merge_symbols(word, ranks) == reference.byte_pairs(word, ranks)


def test_all_occurrences_of_one_pair_merge_before_any_new_pair() -> None:
    # one occurrence at a time would let "abc a" (rank 0) take the second "a" away
    ranks = {"abc a": 0, "b c": 1, "a bc": 2}
    word = "abcabcx"
    assert merge_symbols(word, ranks) == ["abc", "abc", "x</w>"] == reference.byte_pairs(word, ranks)
    long_word = "abc" * 30
    assert merge_symbols(long_word, ranks) == reference.byte_pairs(long_word, ranks)


@pytest.mark.parametrize("columns", ["", " 17"])
def test_two_and_three_columns(columns: str) -> None:
    assert parse_merges(f"l o{columns}\nlo w{columns}\n") == {"l o": 0, "lo w": 1}


def test_what_follows_the_last_line_break_is_dropped() -> None:
    assert parse_merges("l o\nlo w") == {"l o": 0}


def test_lines_that_white_space_splits_oddly() -> None:
    assert parse_merges("a b\n\u3000 c 5\n\nd e\na b\n") == {"a b": 4, "c 5": 1, "": 2, "d e": 3}


def test_a_word_with_a_space_is_torn_as_hugging_face_tears_it() -> None:
    assert merge_symbols(" ", {}) == ["", "</w>"]
    assert merge_symbols("\n ", {}) == ["\n</w>"]
    assert merge_symbols("a b", {}) == ["a", "", "", "b</w>"]


@pytest.mark.parametrize("word", ["a" * 200_000, "ab" * 100_000, "abcde" * 40_000])
def test_long_words_take_near_linear_time(word: str) -> None:
    ranks = {"a b": 0, "ab c": 1, "d e": 2, "a a": 3, "aa aa": 4, "abc de": 5}
    start = time.perf_counter()
    symbols = merge_symbols(word, ranks)
    assert time.perf_counter() - start < 5
    assert "".join(symbols) == word + "</w>"
