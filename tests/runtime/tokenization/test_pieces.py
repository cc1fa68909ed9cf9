"""The fast path gives the words of the exact pipeline, which gives those of the published rules."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.tokenization import reference
from tests.runtime.tokenization.conftest import all_tables
from tests.runtime.tokenization.strategies import texts
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.piece_encoder import PieceEncoder
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

    def layout(self, word: str) -> tuple[tuple[int, ...], list[int]]:
        return self.ids(word), [len(word)]


@cache
def encoder(lang: str, lowercase: bool) -> tuple[WordPipeline, PieceEncoder, Words, reference.Moses]:
    tables = all_tables()
    pipeline = WordPipeline(lang, MosesTables(tables), lowercase)
    words = Words()
    # a small cache, so that entries are dropped and made again
    return pipeline, PieceEncoder(pipeline, words.ids, words.layout, 500, 24), words, reference.Moses(lang, tables)


def check(text: str, lang: str, lowercase: bool) -> None:
    pipeline, pieces, registry, moses = encoder(lang, lowercase)
    expected = reference.words(text, moses, lowercase)
    assert pipeline.words(text) == expected
    assert [registry.words[i] for i in pieces.ids(text)] == expected
    aligned = pipeline.aligned_words(AlignedText.identity(text))
    assert [word.text for word in aligned] == expected
    ids, spans, numbers = pieces.layout(text)
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


def test_the_cache_is_bounded() -> None:
    _, pieces, _, _ = encoder("en", True)
    for number in range(3000):
        pieces.ids(f"word{number} . 'x{number}. y")
    held = pieces.cache_sizes()
    assert held["pieces"] <= 2 * 500
