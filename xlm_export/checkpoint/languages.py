"""Which language embedding a loaded checkpoint's texts get, as an export asks for it."""

from __future__ import annotations

from xlm_export.checkpoint.checkpoint import Checkpoint
from xlm_export.families.table import export_family
from xlm_runtime.bundle import LANGS_INPUT, LANGS_NONE
from xlm_runtime.errors import InputError
from xlm_runtime.model.languages import language_number
from xlm_runtime.tokenization import XLMTokenizer


def set_languages(
    loaded: Checkpoint, tokenizer: XLMTokenizer, langs: str = LANGS_INPUT, default_lang: str | None = None
) -> None:
    """Change the model and its configuration to what an export wants of languages.

    Args:
        langs: "input" leaves the model as it is; "none" or a language makes it one that reads no `langs`.
        default_lang: with "input", in place of the configuration's `default_lang`.

    Raises:
        InputError: an unknown language, a language for a model without language embeddings, or a default where the
            language is fixed.
    """
    config = loaded.config
    numbers = tokenizer.lang2id or config.lang2id
    if not config.uses_langs and (default_lang is not None or langs not in (LANGS_INPUT, LANGS_NONE)):
        raise InputError(
            f"The language '{default_lang or langs}' was given, but the checkpoint '{loaded.source}' has no language "
            "embeddings (n_langs is 1, or use_lang_emb is false). Leave out --langs and --default-lang."
        )
    if langs == LANGS_INPUT:
        if default_lang is not None:
            config.default_lang = default_lang
        if config.default_lang is not None and config.uses_langs:
            language_number(config.default_lang, numbers, config)
        return
    if default_lang is not None:
        raise InputError(
            f"--langs {langs} fixes the language of every text, so there is no default to choose: leave out "
            f"--default-lang {default_lang}, or --langs."
        )
    number = None if langs == LANGS_NONE else language_number(langs, numbers, config)
    export_family(config).fix_language(loaded.model.body, number)
