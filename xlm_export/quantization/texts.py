"""Texts to calibrate and compare on."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from xlm_export.verification.batches import SENTENCES
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import InputError

LANGUAGES = ("en", "de", "fr", "ru", "es", "ar", "zh", "en")
"""Of `SENTENCES`."""


@dataclass(frozen=True)
class Text:
    """A text and its language, if that is known."""

    text: str
    lang: str | None = None


def read_texts(path: str | Path) -> list[Text]:
    """One text a line, or `lang<TAB>text`; empty lines are left out.

    Raises:
        InputError: no such file, not UTF-8, or no text in it.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise InputError(f"File '{path}' not found; give a file with one text a line.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"File '{path}' is not UTF-8 ({error}); give a file with one text a line.") from error
    texts = []
    for line in lines:
        lang, tab, text = line.partition("\t")
        item = Text(text.strip(), lang.strip()) if tab else Text(line.strip())
        if item.text:
            texts.append(item)
    if not texts:
        raise InputError(f"File '{path}' holds no text; expected one text a line, or lang<TAB>text.")
    return texts


def calibration_texts(bundle: Bundle, path: str | Path | None) -> list[Text]:
    """Those of a file, see `read_texts`; without one `own_texts` for the bundle's model."""
    if path is not None:
        return read_texts(path)
    return own_texts((bundle.config.lang2id or {}) if bundle.config.uses_langs else {})


def own_texts(known: Container[str] = ()) -> list[Text]:
    """The sentences that verification uses too, eight in seven languages: without a language, and, since a language's
    embedding widens the range of activations, again with those languages that are `known`."""
    named = zip(SENTENCES, LANGUAGES, strict=True)
    return [*map(Text, SENTENCES), *(Text(sentence, lang) for sentence, lang in named if lang in known)]
