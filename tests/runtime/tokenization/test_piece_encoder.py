"""The fast path gives the words of the exact pipeline, which gives those of the published rules."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.tokenization import reference
from tests.runtime.tokenization.conftest import all_tables
from tests.runtime.tokenization.strategies import texts
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.offset_encoder import OffsetEncoder
from xlm_runtime.tokenization.piece_encoder import PieceEncoder
from xlm_runtime.tokenization.rotating_cache import CacheMemory
from xlm_runtime.tokenization.words import WordPipeline

pytest.importorskip("sacremoses")
LANGS = ("en", "fr", "de", "ro", "ru", "ko")


class Words:
    """Every word as one token, so that ids tell words apart."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._ids: dict[str, int] = {}

    def ids(self, word: str) -> tuple[int, ...]:
        if word not in self._ids:
            self._ids[word] = len(self.words)
            self.words.append(word)
        return (self._ids[word],)

    def pieces(self, word: str) -> tuple[tuple[int, ...], list[int]]:
        return self.ids(word), [len(word)]


class Encoders(NamedTuple):
    pipeline: WordPipeline
    pieces: PieceEncoder
    offsets: OffsetEncoder
    registry: Words
    moses: reference.Moses


@cache
def encoders(lang: str, lowercase: bool) -> Encoders:
    tables = all_tables()
    pipeline = WordPipeline(lang, MosesTables(tables), lowercase)
    words = Words()
    memory = CacheMemory(0.1)  # little, so that entries are dropped and made again
    pieces = PieceEncoder(pipeline, words.ids, memory)
    offsets = OffsetEncoder(pieces, pipeline, words.pieces, memory)
    return Encoders(pipeline, pieces, offsets, words, reference.Moses(lang, tables))


def check(text: str, lang: str, lowercase: bool) -> None:
    pipeline, pieces, offsets, registry, moses = encoders(lang, lowercase)
    expected = reference.words(text, moses, lowercase)
    assert pipeline.words(text) == expected
    assert [registry.words[i] for i in pieces.ids(text)] == expected
    aligned = pipeline.aligned_words(AlignedText.identity(text))
    assert [word.text for word in aligned] == expected
    ids, spans, numbers = offsets.ids_and_offsets(text)
    assert [registry.words[i] for i in ids] == expected
    assert numbers == list(range(len(ids)))
    assert spans == sorted(spans)
    assert all(0 <= a < b <= len(text) for a, b in spans)


@settings(max_examples=300)
@given(texts, st.sampled_from(LANGS), st.booleans())
def test_fast_path_equals_the_published_rules(text: str, lang: str, lowercase: bool) -> None:
    check(text, lang, lowercase)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None)
@given(texts, st.sampled_from(LANGS), st.booleans())
def test_fast_path_equals_the_published_rules_at_length(text: str, lang: str, lowercase: bool) -> None:
    check(text, lang, lowercase)


@pytest.mark.parametrize(
    "text",
    [
        "5' '6",
        "a' 'b",
        "'a",
        "x 'a",
        'foo."',
        'foo." ',
        'foo." "bar',
        '."."x',
        "a) .",
        "( a",
        "5 %",
        "x :",
        "No. 5",
        "No. x",
        "No. X",
        "foo. １",
        "foo.\u200b bar",
        "'\u200b '6",
        "中'a",
        "中,5 ,5",
        "a\n b",
        " \n'a",
        "。 \u00a0%",
        "DOT.. DOTMULTI",
        "a    'b",
        ". . . .",
        "",
        "   ",
    ],
)
@pytest.mark.parametrize("lang", LANGS)
def test_rules_that_look_over_a_space(text: str, lang: str) -> None:
    check(text, lang, True)


@pytest.mark.parametrize("lang", ["en", "de", "fr"])
def test_words_between_marks(lang: str) -> None:
    """Every mark that `_marked_word` knows, and some that it does not know, around simple words, in every context."""
    words = ("word", "Ёж", "5", "1.5", "2,000", "a-b", "Nr", "U.S", "x--y", "１", "中")
    for word in words if lang == "en" else words[::2]:  # languages differ in their marks and prefixes
        for before in ("", *"([$#¿¡€£\"“„«»'"):
            for after in ("", *",?!:;)]%€،؟؛.\"”»'…"):
                piece = f"{before}{word}{after}"
                check(f"{piece} x {piece} 5 {piece} X {piece}", lang, True)


def test_memory_is_bounded() -> None:
    memory = CacheMemory(0.25)
    pipeline = encoders("en", True).pipeline
    words = Words()
    pieces = PieceEncoder(pipeline, words.ids, memory)
    offsets = OffsetEncoder(pieces, pipeline, words.pieces, memory)
    most = 0
    for number in range(3000):
        text = f"word{number} . 'x{number}. y{number}, Y{number} 中{number}文"
        pieces.ids(text)
        offsets.ids_and_offsets(text)
        assert memory.used <= memory.generation_bytes
        most = max(most, sum(pieces.cache_sizes().values()) + offsets.cache_size())
    # two generations of entries that take 200 bytes and more; 24,000 were made
    assert 500 < most < 2 * memory.generation_bytes / 200
