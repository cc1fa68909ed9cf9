"""The word tokeniser: sacremoses's own cases, sacremoses itself, and the published rules."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization import reference
from tests.runtime.tokenization.conftest import LANGUAGES, all_tables
from tests.runtime.tokenization.strategies import texts
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.tokenization.moses import MosesTables, MosesTokenizer
from xlm_runtime.tokenization.sacremoses_tables import read_tables

sacremoses = pytest.importorskip("sacremoses")


@cache
def ours(lang: str) -> MosesTokenizer:
    return MosesTables(all_tables()).tokenizer(lang)


@cache
def theirs(lang: str) -> Any:
    return sacremoses.MosesTokenizer(lang=lang)


@cache
def published(lang: str) -> reference.Moses:
    return reference.Moses(lang, all_tables())


# from sacremoses's test suite, some shortened, without escaping
CASES = [
    ("en", "This, is weird» symbols… everywhere¿", "This , is weird » symbols … everywhere ¿"),
    ("en", "abc def.", "abc def ."),
    ("en", "2016, pp.", "2016 , pp ."),
    ("en", "This ain't funny. It's hillarious.", "This ain 't funny . It 's hillarious ."),
    ("en", "| [] < > [ ] & You're off? Don't?", "| [ ] < > [ ] & You 're off ? Don 't ?"),
    ("en", "this 'is' the thing", "this ' is ' the thing"),
    ("en", "foo-bar", "foo-bar"),
    ("en", "series (with, and played by celebrities).", "series ( with , and played by celebrities ) ."),
    ("en", "at 11:00 a.m. Tuesday.", "at 11 : 00 a.m. Tuesday ."),
    ("en", "'Hello.'", "'Hello . '"),
    ("en", "(unter 4.1.1, „Sichern“ beschrieben). ", "( unter 4.1.1 , „ Sichern “ beschrieben ) ."),
    ("en", "Japan is 日本 in Japanese.", "Japan is 日 本 in Japanese ."),
    ("ko", "세계 에서 가장 강력한.", "세계 에서 가장 강력한 ."),
    ("fr", "L'amitié nous a fait forts d'esprit", "L' amitié nous a fait forts d' esprit"),
]


@pytest.mark.parametrize(("lang", "text", "expected"), CASES)
def test_cases(lang: str, text: str, expected: str) -> None:
    assert ours(lang).words(text) == expected.split()


@given(texts, st.sampled_from(LANGUAGES))
def test_equals_sacremoses(text: str, lang: str) -> None:
    assert ours(lang).words(text) == theirs(lang).tokenize(text, escape=False)


@given(texts, st.sampled_from(("en", "fr", "de", "ko")))
def test_equals_the_published_rules(text: str, lang: str) -> None:
    assert ours(lang).words(text) == published(lang).tokenize(text)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_prefix_of_every_language(lang: str) -> None:
    lists = all_tables()["prefixes"][all_tables()["languages"][lang]]
    for prefix in [*lists["nonbreaking"], *lists["numeric_only"]]:
        for text in (f"{prefix}. Foo", f"{prefix}. 5", f"{prefix}. foo", f"x {prefix}."):
            assert ours(lang).words(text) == theirs(lang).tokenize(text, escape=False), text


@pytest.mark.slow
@pytest.mark.parametrize("separator", [" ", "a", "'", ","])
def test_every_character_alone_and_between_others(separator: str) -> None:
    text = separator.join(map(chr, range(0x20000)))
    assert ours("en").words(text) == theirs("en").tokenize(text, escape=False)


def test_tables_are_only_those_asked_for_and_small() -> None:
    small = read_tables(["de", "ar"])
    assert small["languages"] == {"ar": "en", "de": "de", "en": "en"}
    assert len(json.dumps(small)) < 32_000
    with pytest.raises(InputError, match=r"no tables for language 'fr'.*ar, de, en"):
        MosesTables(small).tokenizer("fr")


def test_tables_of_another_format_are_refused() -> None:
    with pytest.raises(BundleError, match="format version 99"):
        MosesTables({**all_tables(), "format_version": 99})
    with pytest.raises(BundleError, match="an object with 'classes'"):
        MosesTables({key: value for key, value in all_tables().items() if key != "classes"})
