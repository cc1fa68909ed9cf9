"""Normalisation and lower-casing against the published rules, with and without alignment."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization import reference
from tests.runtime.tokenization.steps import processor_seconds
from tests.runtime.tokenization.strategies import texts
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.normalization import PunctuationNormalizer, fold, fold_aligned, romanian

LANGS = ("en", "de", "fr", "cs", "ru")


@given(texts, st.sampled_from(LANGS))
def test_plain_text_equals_the_published_rules(text: str, lang: str) -> None:
    assert PunctuationNormalizer(lang).plain(text) == reference.normalize(text, lang)


@given(texts, st.sampled_from(LANGS))
def test_aligned_text_is_the_same_and_its_spans_are_ordered(text: str, lang: str) -> None:
    normalizer = PunctuationNormalizer(lang)
    aligned = normalizer.aligned(AlignedText.identity(text))
    assert aligned.text == normalizer.plain(text)
    assert len(aligned.text) == len(aligned.begin) == len(aligned.end)
    assert aligned.begin == sorted(aligned.begin)
    assert aligned.end == sorted(aligned.end)
    assert all(0 <= a <= b <= len(text) for a, b in zip(aligned.begin, aligned.end, strict=True))


@given(texts)
def test_lower_casing_a_word_equals_lower_casing_the_line(text: str) -> None:
    words = text.split()
    joined = [word for word in reference.lowercase_and_remove_accent(words) if word]
    assert [word for word in map(fold, words) if word] == joined


@given(texts)
def test_aligned_lower_casing_is_the_same(text: str) -> None:
    for word in text.split():
        aligned = fold_aligned(AlignedText.identity(word))
        assert aligned.text == fold(word)
        assert len(aligned.begin) == len(aligned.end) == len(aligned.text)


def test_every_character_folds_with_its_own_span() -> None:
    # the coarse fallback of fold_aligned is never needed: any letter between others keeps the others' spans
    for code in range(0x110000):
        char = chr(code)
        if char.isspace() or char.lower() == char == unicodedata.normalize("NFD", char):
            continue
        aligned = fold_aligned(AlignedText.identity(f"a{char}b"))
        assert (aligned.begin[0], aligned.begin[-1], aligned.end[-1]) == (0, 2, 3), hex(code)


def test_a_mark_that_goes_widens_its_letter() -> None:
    aligned = fold_aligned(AlignedText.identity("e\u0301a"))
    assert (aligned.text, aligned.begin, aligned.end) == ("ea", [0, 2], [2, 3])


def test_punctuation_that_swaps_shares_a_span() -> None:
    aligned = PunctuationNormalizer("en").aligned(AlignedText.identity('a", b'))
    assert aligned.text == 'a," b'
    assert aligned.begin == [0, 1, 1, 3, 4]
    assert aligned.end == [1, 3, 3, 4, 5]


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("The United States in 1805 (color map)                 _Facing_     193", "en", None),
        ("=Formation of the Constitution.=--(1) The plans before the convention,", "en", None),
        ("(B) what was it about?     6. Mention the causes of the war of 1812.", "en", None),
        ("13\xa0Aug", "en", None),
        ("0 - 3\xa0000\xa0000", "de", "0 - 3,000,000"),
        ("1\xa0000", "en", "1.000"),
        ("«Wort»", "de", '"Wort"'),
        ("“Hello,” he said", "en", '"Hello," he said'),
        ("wait… what", "en", "wait... what"),
        ("全角，标点。好", "zh", "全角,标点. 好"),
    ],
)
def test_cases(text: str, lang: str, expected: str | None) -> None:
    sacremoses = pytest.importorskip("sacremoses")
    got = PunctuationNormalizer(lang).plain(text)
    if expected is None:
        expected = sacremoses.MosesPunctNormalizer(lang=lang).normalize(text)
    assert got == expected


@given(st.text(alphabet="ŞşŢţȘșȚțĂăÂâÎîaé ", max_size=10))
def test_romanian(text: str) -> None:
    assert romanian(text) == reference.romanian(text)


def test_nested_quotes_and_periods_take_linear_time() -> None:
    long = ["." * 200_000, "." * 200_000 + ' ."x', '."' * 100_000, '"' * 200_000, "(" * 100_000, " " * 500_000]
    for lang in ("en", "de"):
        normalizer = PunctuationNormalizer(lang)
        with processor_seconds(30):
            for text in [*long, "\u00a0" * 200_000]:
                normalizer.plain(text)


def test_folding_again_changes_nothing() -> None:
    # so a word that is remembered as a piece of text has the word's own ids
    for code in range(0x110000):
        folded = fold(chr(code))
        assert folded == chr(code) or fold(folded) == folded, hex(code)


@pytest.mark.parametrize("marks", ["\u0e48\u0e38", "\u0301\u0316", "\U0001d16d\U0001d165", "é\u0301\u0316"])
def test_many_marks_take_linear_time(marks: str) -> None:
    # `unicodedata.normalize` alone takes quadratic time, which no count of steps shows
    short, long = "ก" + marks * 30, "ก" + marks * (200_000 // len(marks))
    unmarked = [char for char in unicodedata.normalize("NFD", short) if unicodedata.category(char) != "Mn"]
    assert fold(short) == "".join(unmarked).lower()
    with processor_seconds(10):
        assert fold_aligned(AlignedText.identity(long)).text == fold(long)
