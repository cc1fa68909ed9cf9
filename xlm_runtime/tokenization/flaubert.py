"""FlauBERT's tokenizer (Le et al. 2020): XLM's for French, behind canonical composition; accents stay."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar

from xlm_runtime.checked_json import Check, flag, nullable
from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.alignment import AlignedText, Rewrite
from xlm_runtime.tokenization.normalization import in_canonical_order, lower_aligned
from xlm_runtime.tokenization.tokenizer import XLMTokenizer

LANG = "fr"
"""As which every text is split."""

_QUOTES = tuple(Rewrite(old, re.compile(old), ('"',)) for old in ("``", "''"))
# so many marks in a row are in no word, and `unicodedata.normalize` takes quadratic time to put them in order
_MARKS = re.compile(r"[^\w\s]{64}")


class FlaubertTokenizer(XLMTokenizer):
    """Moses for French, and byte-pair merges.

    Ids equal those of Hugging Face's `FlaubertTokenizer`, which takes no language: `lang` is checked, and chooses the
    language embedding of models that have some, but no rule.

    Args:
        do_lowercase: lower-case texts, as models need whose vocabulary is uncased.
        options: those of `XLMTokenizer`.

    Raises:
        BundleError: files are missing or not what they should be.
        InputError: an option that is not known, or that takes accents.
    """

    hub_class: ClassVar[str] = "FlaubertTokenizer"
    own_options: ClassVar[Mapping[str, Check]] = {"do_lowercase": nullable(flag)}

    def __init__(
        self,
        vocab_file: str | PathLike[str],
        merges_file: str | PathLike[str],
        *,
        do_lowercase: bool = False,
        do_lowercase_and_remove_accent: bool = False,
        **options: Any,
    ) -> None:
        if do_lowercase_and_remove_accent:
            raise InputError("do_lowercase_and_remove_accent is true, but FlauBERT keeps accents; use do_lowercase.")
        self.do_lowercase = do_lowercase
        super().__init__(
            vocab_file,
            merges_file,
            do_lowercase_and_remove_accent=False,
            preparation=FrenchPreparation(do_lowercase),
            split_as=LANG,
            **options,
        )


@dataclass(frozen=True)
class FrenchPreparation:
    """What FlauBERT does before Moses: quotes of two marks become one, letters and their marks one character.

    Attributes:
        lowercase: lower-case the whole text then.
    """

    lowercase: bool

    def plain(self, text: str) -> str:
        for rule in _QUOTES:
            text = rule.plain(text)
        text = _composed(text)
        return text.lower() if self.lowercase else text

    def aligned(self, source: AlignedText) -> AlignedText:
        for rule in _QUOTES:
            source = rule.aligned(source)
        source = _composed_aligned(source)
        return lower_aligned(source) if self.lowercase else source


def _composed(text: str) -> str:
    """Normalisation form C."""
    if text.isascii():
        return text
    if _MARKS.search(text):
        text = in_canonical_order(text)
    return unicodedata.normalize("NFC", text)


def _composed_aligned(source: AlignedText) -> AlignedText:
    """The same, with each character's span: what is composed has the span of all that it is composed of."""
    expected = _composed(source.text)
    if expected == source.text:
        return source
    begin: list[int] = []
    end: list[int] = []
    for start, stop in _clusters(source.text):
        part = source.text[start:stop]
        composed = _composed(part)
        if composed == part:
            begin += source.begin[start:stop]
            end += source.end[start:stop]
        else:
            begin += [source.begin[start]] * len(composed)
            end += [source.end[stop - 1]] * len(composed)
    return AlignedText(expected, begin, end)


def _clusters(text: str) -> list[tuple[int, int]]:
    """Spans whose compositions, one after the other, are that of the whole text: letters with their marks, and what
    composes with the letter before it, such as Hangul's vowels."""
    starters = [i for i, char in enumerate(text) if i == 0 or not unicodedata.combining(char)]
    found: list[tuple[int, int]] = []
    for start, stop in zip(starters, [*starters[1:], len(text)], strict=True):
        if found:
            before, cluster = text[found[-1][0] : start], text[start:stop]
            if _composed(before + cluster) != _composed(before) + _composed(cluster):
                found[-1] = (found[-1][0], stop)
                continue
        found.append((start, stop))
    return found
