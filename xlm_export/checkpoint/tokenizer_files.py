"""A checkpoint's tokenizer: from its own folder or another, and whether the model has an embedding for all it gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

from xlm_export.checkpoint.source import TOKENIZER_PATTERNS, Source, find_source
from xlm_export.errors import CheckpointError
from xlm_export.families.table import export_family
from xlm_runtime.config import XLMConfig
from xlm_runtime.families import read_config
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.word_files import VOCAB


def checkpoint_tokenizer(source: Source, tokenizer: str | Path | None = None) -> XLMTokenizer:
    """The tokenizer of a checkpoint, with the languages of its configuration where its own files name none.

    Args:
        tokenizer: a folder or hub id, `id@revision`, with the tokenizer's files; by default the checkpoint's own.

    Raises:
        CheckpointError: no such files, or tokens or languages beyond the checkpoint's embeddings.
        BundleError, InputError: files that are not what they should be.
    """
    config = read_config(source.folder)
    family = export_family(config)
    if tokenizer is None and source.read is not None and not (source.folder / VOCAB).is_file():
        raise CheckpointError(
            f"'{source.name}' has its words, but not fastBPE's codes, which are in a file of their own. Give that with "
            "--codes (codes=…), or a tokenizer with --tokenizer (tokenizer=…)."
        )
    folder = source.folder if tokenizer is None else find_source(tokenizer, patterns=TOKENIZER_PATTERNS).folder
    with tempfile.TemporaryDirectory() as draft:
        converted = family.convert_tokenizer(folder, Path(draft), config.vocab_size)
        found = family.runtime.read_tokenizer(draft if converted else folder)
    if found.lang2id is None and config.lang2id is not None:
        found.lang2id, found.id2lang = config.lang2id, config.id2lang
    check_tokens(found, config)
    check_languages(found, config)
    return found


def check_tokens(tokenizer: XLMTokenizer, config: XLMConfig) -> None:
    """Whether each token has an embedding.

    Raises:
        CheckpointError: one has none. Engines would refuse its id, or answer wrongly without a word.
    """
    ids = tokenizer.get_vocab()
    token = max(ids, key=ids.__getitem__, default=None)
    if token is not None and ids[token] >= config.vocab_size:
        beyond = sum(index >= config.vocab_size for index in ids.values())
        raise CheckpointError(
            f"The tokenizer's ids go up to {ids[token]} ('{token}'), but vocab_size is {config.vocab_size}: {beyond} "
            f"of its {len(ids)} tokens have no embedding. Save the model after "
            "model.resize_token_embeddings(len(tokenizer)), or give the tokenizer that it was trained with "
            "(--tokenizer)."
        )


def check_languages(tokenizer: XLMTokenizer, config: XLMConfig) -> None:
    """Whether each language has an embedding, in a model that has them.

    Raises:
        CheckpointError: one has none.
    """
    if not config.uses_langs:
        return
    named = [*(config.lang2id or {}).items(), *(tokenizer.lang2id or {}).items()]
    default = config.lang_id or 0
    for lang, number in [*named, ("lang_id", 0 if default == -1 else default)]:  # -1: none
        if not 0 <= number < config.n_langs:
            raise CheckpointError(
                f"The language '{lang}' has the number {number}, but n_langs is {config.n_langs}: the weights have "
                f"language embeddings 0 to {config.n_langs - 1}. Correct lang2id and lang_id, or n_langs, in "
                "config.json and tokenizer_config.json."
            )
