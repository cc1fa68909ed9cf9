"""Languages as a bundle's graphs read them: which number each has, and what a text gets that names none.

Whether a checkpoint was fine-tuned with language embeddings is written nowhere: transformers' Trainer and pipelines
give the model no `langs`, and then none is added; other scripts give each text's, or one to all. So nothing is added
here either, unless a language is named, or `default_lang` in `config.json` names one for all texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xlm_runtime.bundle import Bundle
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer

NO_LANG = -1
"""In a graph's `langs`: no language embedding."""


@dataclass(frozen=True)
class LanguageNumbers:
    """The languages of an opened bundle.

    Attributes:
        numbers: language → its number, None where nothing names them.
        read: whether the model has language embeddings and its graphs read `langs`.
        default: the number for a text without a language, or `NO_LANG`.
        prompt: the same for a text that is to be continued; `generate` of transformers gives it `lang_id`.
    """

    numbers: Mapping[str, int] | None
    read: bool
    default: int
    prompt: int

    @classmethod
    def of(cls, bundle: Bundle, tokenizer: XLMTokenizer) -> LanguageNumbers:
        """Those of a bundle.

        Raises:
            InputError: a `default_lang` that it does not have.
        """
        config = bundle.config
        numbers = tokenizer.lang2id or config.lang2id
        if config.default_lang is not None and config.uses_langs:
            default = prompt = language_number(config.default_lang, numbers, config)
        elif bundle.knows_no_lang:
            default, prompt = NO_LANG, NO_LANG if config.lang_id is None else config.lang_id
        else:
            default = prompt = config.lang_id or 0
        return cls(numbers, config.uses_langs, default, prompt)

    def number(self, lang: str | None) -> int:
        """The number of a language; the default for None.

        Raises:
            InputError: a language that the bundle does not know.
        """
        if lang is None:
            return self.default
        if self.numbers is None:
            if self.read:
                raise InputError(
                    f"lang='{lang}' was given, but the bundle has no lang2id that says which number it is."
                )
            return self.default
        if lang not in self.numbers:
            raise InputError(f"Unknown lang '{lang}'; this bundle knows {', '.join(sorted(self.numbers))}.")
        return self.numbers[lang]


def language_number(lang: str, numbers: Mapping[str, int] | None, config: XLMConfig) -> int:
    """The number of a language by its name, or, where nothing names them, by the number itself in digits.

    Raises:
        InputError: there is no such language.
    """
    if numbers is not None and lang in numbers:
        return numbers[lang]
    if numbers is None and lang.isdecimal() and int(lang) < config.n_langs:
        return int(lang)
    known = ", ".join(sorted(numbers)) if numbers is not None else f"a number from 0 to {config.n_langs - 1}"
    raise InputError(f"Unknown language '{lang}'; expected one of: {known}.")
