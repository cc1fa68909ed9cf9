"""Spans of the original text: ordered, inside it, covering what survives, and over the word they say."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization.conftest import VOCABULARIES, all_tables
from tests.runtime.tokenization.strategies import texts
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.words import WordPipeline

PIPELINES: dict[tuple[str, bool], WordPipeline] = {}


def pipeline(lang: str, lowercase: bool) -> WordPipeline:
    key = lang, lowercase
    if key not in PIPELINES:
        PIPELINES[key] = WordPipeline(lang, MosesTables(all_tables()), lowercase)
    return PIPELINES[key]


def check_words(text: str, words: WordPipeline) -> None:
    """The invariant, for one text. Words whose punctuation was swapped share a span and are looked at together."""
    aligned = words.aligned_words(AlignedText.identity(text))
    spans = [word.span() for word in aligned]
    assert spans == sorted(spans)
    assert all(0 <= a < b <= len(text) for a, b in spans)
    # outside every span stands nothing that gives a word of its own
    covered = 0
    for start, stop in [*spans, (len(text), len(text))]:
        assert not words.words(text[covered : max(start, covered)]), text[covered:start]
        covered = max(covered, stop)
    # the text under a word's characters normalises to that word
    for span, group in groupby(aligned, key=AlignedText.span):
        expected = "".join(word.text for word in group)
        found = "".join(words.words(text[slice(*span)]))
        assert sorted(found) == sorted(expected), (span, text[slice(*span)])


@given(texts.filter(lambda text: "MULTI" not in text and "\u0345" not in text), st.booleans())
def test_invariant_on_made_text(text: str, lowercase: bool) -> None:
    words = pipeline("en", lowercase)
    aligned = words.aligned_words(AlignedText.identity(text))
    spans = [word.span() for word in aligned]
    assert spans == sorted(spans)
    assert all(0 <= a < b <= len(text) for a, b in spans)
    assert [word.text for word in aligned] == words.words(text)


@pytest.mark.shared
@pytest.mark.parametrize("lang", ["en", "de", "es", "ru", "zh", "ar", "fr", "it", "nl", "pt", "sw"])
def test_invariant_on_real_lines(real_lines: dict[str, list[str]], lang: str) -> None:
    check_lines(real_lines[lang][::19], lang)


@pytest.mark.whole
@pytest.mark.shared
def test_invariant_on_every_real_line(real_lines: dict[str, list[str]]) -> None:
    for lang, lines in real_lines.items():
        check_lines(lines, lang)


def check_lines(lines: list[str], lang: str) -> None:
    words = pipeline("en", True) if lang in ("zh", "ja", "th") else pipeline(lang, True)
    for line in lines:
        check_words(line, words)


@pytest.mark.shared
@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_are_the_same_with_spans(
    real: Callable[[str], XLMTokenizer], real_lines: dict[str, list[str]], name: str
) -> None:
    tokenizer = real(name)
    for lang, lines in real_lines.items():
        for line in lines[::7]:
            plain, spanned = tokenizer(line), tokenizer(line, return_offsets_mapping=True)
            assert plain["input_ids"] == spanned["input_ids"], (lang, line)
            assert len(spanned["offset_mapping"]) == len(spanned["input_ids"])


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("Hello, World", "en", ["Hello", ",", "World"]),
        ("don't", "en", ["don", "'t"]),
        ("l'été", "fr", ["l'", "été"]),
        ("wait…", "en", ["wait", "…"]),
        ('"a", b', "en", ['"', "a", '",', '",', "b"]),
        # Moses takes a combining mark for a word, and the removal of accents takes that word
        ("E\u0301te", "en", ["E", "te"]),
        ("中文，好。", "en", ["中", "文", "，", "好", "。"]),
        ("co\u00adop", "en", ["co\u00adop"]),
        ("a ( b )", "en", ["a", "(", "b", ")"]),
        ("５ ％", "en", ["５", "％"]),
        ("x\u00a0%", "en", ["x", "%"]),
        ("İstanbul", "en", ["İstanbul"]),
        ("Ţară", "ro", ["Ţară"]),
        ("''quoted''", "en", ["''", "quoted", "''"]),
    ],
)
def test_examples(text: str, lang: str, expected: list[str]) -> None:
    words = pipeline(lang, True).aligned_words(AlignedText.identity(text))
    assert [text[slice(*word.span())] for word in words] == expected


def test_tokens_of_a_word_split_its_span(toy: XLMTokenizer) -> None:
    encoding = toy("Lower <special1> é", return_offsets_mapping=True)
    assert encoding.tokens() == ["<s>", "low", "er</w>", "<special1>", "<unk>", "</s>"]
    assert encoding["offset_mapping"] == [(0, 0), (0, 3), (3, 5), (6, 16), (17, 18), (0, 0)]
    assert encoding.word_ids() == [None, 0, 0, 1, 2, None]
