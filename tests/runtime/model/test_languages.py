"""Which number a language has, and what a text gets that names none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xlm_runtime import Bundle, InputError, XLMConfig
from xlm_runtime.model.languages import NO_LANG, LanguageNumbers, language_number

NUMBERS = {"de": 0, "en": 1, "fr": 2}


def languages(conventions: dict[str, Any], numbers: dict[str, int] | None = NUMBERS, **options: Any) -> LanguageNumbers:
    config = XLMConfig(**({"vocab_size": 9, "emb_dim": 4, "n_heads": 1, "n_langs": 3, "lang_id": 1} | options))
    bundle = Bundle(Path(), "fill-mask", "XLMWithLMHeadModel", (), {}, {}, {}, conventions, {}, config)
    tokenizer: Any = SimpleNamespace(lang2id=numbers)
    return LanguageNumbers.of(bundle, tokenizer)


@pytest.mark.parametrize(
    ("conventions", "options", "default", "prompt"),
    [
        ({"langs": "input"}, {}, NO_LANG, 1),
        ({"langs": "input"}, {"lang_id": None}, NO_LANG, NO_LANG),
        ({"langs": "input"}, {"default_lang": "fr"}, 2, 2),
        ({"uses_langs": True}, {}, 1, 1),  # of version 0.1, whose graphs know no -1
        ({"uses_langs": True}, {"lang_id": None}, 0, 0),
        ({"uses_langs": True}, {"default_lang": "fr"}, 2, 2),
    ],
)
def test_a_text_without_a_language(
    conventions: dict[str, Any], options: dict[str, Any], default: int, prompt: int
) -> None:
    found = languages(conventions, **options)
    assert (found.default, found.prompt, found.number(None)) == (default, prompt, default)
    assert found.number("fr") == 2


def test_names() -> None:
    found = languages({"langs": "input"})
    with pytest.raises(InputError, match="Unknown lang 'xx'; this bundle knows de, en, fr"):
        found.number("xx")
    unnamed = languages({"langs": "input"}, None)
    with pytest.raises(InputError, match="lang='de' was given, but the bundle has no lang2id"):
        unnamed.number("de")
    assert languages({"langs": "none"}, None, use_lang_emb=False).read is False
    config = XLMConfig(n_langs=3)
    assert language_number("de", NUMBERS, config) == 0
    assert language_number("2", None, config) == 2
    for name, numbers in (("3", None), ("de", None), ("-1", None), ("2", NUMBERS)):
        with pytest.raises(InputError, match=f"Unknown language '{name}'; expected one of"):
            language_number(name, numbers, config)
