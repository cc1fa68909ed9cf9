"""Reads the Moses tables out of an installed sacremoses: once, at export time or for a plain checkpoint folder."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from xlm_runtime.errors import MissingExtraError
from xlm_runtime.tokenization.moses import TABLES_FORMAT

# the languages that Moses splits and that have letters beyond those of all others
_OWN_LETTERS = ("ko",)
_NUMERIC_ONLY = re.compile(r"\s#NUMERIC_ONLY#")


def read_tables(langs: Iterable[str] | None = None) -> dict[str, Any]:
    """The contents of `moses.json` for `langs`; without them, for every language that sacremoses knows.

    English is always included: it is what a call without `lang` uses, and what Moses falls back to for languages
    without prefixes of their own.

    Raises:
        MissingExtraError: sacremoses is not installed.
    """
    try:
        sacremoses = importlib.import_module("sacremoses")
        corpus = importlib.import_module("sacremoses.corpus")
    except ImportError as error:
        raise MissingExtraError("sacremoses", "export", "A model folder without moses.json") from error
    from importlib.metadata import version  # slow to import

    reader = corpus.NonbreakingPrefixes()
    known: dict[str, str] = reader.available_langs
    wanted = {"en", *(langs if langs is not None else (*known, *_OWN_LETTERS))}
    english = sacremoses.MosesTokenizer
    prefixes: dict[str, dict[str, list[str]]] = {}
    languages: dict[str, str] = {}
    for lang in sorted(wanted):
        source = languages[lang] = known.get(lang, "en")
        if source not in prefixes:
            listed = {line.strip() for line in reader.words(source)}
            numeric = {line.rpartition(" ")[0] for line in listed if _NUMERIC_ONLY.search(line)}
            prefixes[source] = {"nonbreaking": sorted(listed), "numeric_only": sorted(numeric)}
    return {
        "format_version": TABLES_FORMAT,
        "source": f"sacremoses {version('sacremoses')}",
        "every_language": langs is None,
        "classes": {
            "alnum": list(_unmatched_ranges(english.PAD_NOT_ISALNUM[0])),
            "alpha": _ranges(english.IsAlpha),
            "lower": _ranges(english.IsLower),
            "number": _ranges(english.IsN),
        },
        "extra_letters": {lang: _extra_letters(lang) for lang in sorted(wanted) if lang in _OWN_LETTERS},
        "prefixes": prefixes,
        "languages": languages,
    }


@cache
def _extra_letters(lang: str) -> dict[str, list[int]]:
    """The letters that one language has beyond English. Kept for the next call, as below."""
    english = importlib.import_module("sacremoses").MosesTokenizer
    tokenizer = english(lang)
    alnum = set(_unmatched(tokenizer.PAD_NOT_ISALNUM[0])) - set(_unmatched(english.PAD_NOT_ISALNUM[0]))
    return {"alnum": _ranges(alnum), "alpha": _ranges(set(tokenizer.IsAlpha) - set(english.IsAlpha))}


@cache
def _unmatched_ranges(pattern: re.Pattern[str]) -> tuple[int, ...]:
    """Kept for the next call: a pattern is tried on all of Unicode, which takes a quarter of a second."""
    return tuple(_ranges(_unmatched(pattern)))


def _unmatched(pattern: re.Pattern[str]) -> list[str]:
    """The characters that a pattern of one character does not match, without white space and `.'`,-`, which it
    names itself."""
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    return [char for char in pattern.sub("", every) if not char.isspace() and char not in ".'`,-"]


def _ranges(chars: Iterable[str]) -> list[int]:
    """Characters as ranges of code points, `[first, last, first, last, ...]`."""
    flat: list[int] = []
    for code in sorted(set(map(ord, chars))):
        if flat and flat[-1] == code - 1:
            flat[-1] = code
        else:
            flat += [code, code]
    return flat
