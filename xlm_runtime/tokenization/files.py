"""A tokenizer's folder in Hugging Face's format: reading and writing it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.tokenization.vocabulary import SPECIAL_NAMES, AddedToken, added_token, read_json

if TYPE_CHECKING:
    from xlm_runtime.tokenization.tokenizer import XLMTokenizer

VOCAB, MERGES, CONFIG = "vocab.json", "merges.txt", "tokenizer_config.json"
SPECIAL_MAP, ADDED, TABLES = "special_tokens_map.json", "added_tokens.json", "moses.json"
_PLAIN_OPTIONS = (
    "lang2id",
    "do_lowercase_and_remove_accent",
    "model_max_length",
    "padding_side",
    "truncation_side",
    "clean_up_tokenization_spaces",
)


def read_options(folder: str | PathLike[str]) -> dict[str, Any]:
    """The constructor's arguments for a folder. Raises `BundleError` where its files are missing or contradictory.

    As in Hugging Face, `added_tokens_decoder` in the configuration goes before the older files
    `special_tokens_map.json` and `added_tokens.json`, which are then not read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise BundleError(f"'{path}' is not a folder. Expected one that holds {VOCAB} and {MERGES}.")
    config = read_json(path / CONFIG)
    saved = config.get("added_tokens_decoder")
    added: dict[int, AddedToken] = {}
    special: dict[str, Any] = {name: config[name] for name in SPECIAL_NAMES if name in config}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    try:
        if saved is not None:
            added = {int(index): added_token(token) for index, token in saved.items()}
        else:
            mapped = read_json(path / SPECIAL_MAP)
            special |= {name: mapped[name] for name in SPECIAL_NAMES if name in mapped}
            extra = mapped.get("extra_special_tokens") or mapped.get("additional_special_tokens") or extra
        by_content = {token.content: token for token in added.values()}
        named = {name: _special(value, by_content) for name, value in special.items()}
        extra_tokens = None if extra is None else [_special(value, by_content) for value in _values(extra)]
    except (InputError, AttributeError, TypeError, ValueError) as error:
        raise BundleError(f"'{path / CONFIG}' holds special tokens that cannot be read: {error}") from error
    if saved is None:
        known = {_content(token) for token in [*named.values(), *(extra_tokens or [])] if token is not None}
        for content, index in read_json(path / ADDED).items():
            is_special = content in known
            added[index] = AddedToken(content, normalized=not is_special, special=is_special)
    options: dict[str, Any] = {name: config[name] for name in _PLAIN_OPTIONS if config.get(name) is not None}
    if config.get("id2lang") is not None:
        options["id2lang"] = {int(index): lang for index, lang in config["id2lang"].items()}
    options |= named
    if extra_tokens is not None:
        options["additional_special_tokens"] = extra_tokens
    tables = read_json(path / TABLES)
    return options | {
        "vocab_file": path / VOCAB,
        "merges_file": path / MERGES,
        "added_tokens_decoder": added,
        "moses_tables": tables or None,
    }


def _values(extra: object) -> list[Any]:
    return list(extra.values()) if isinstance(extra, Mapping) else list(extra)  # type: ignore[call-overload]


def _special(value: object, known: Mapping[str, AddedToken]) -> AddedToken | str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return known.get(value, value)
    token = added_token(value, special=True)
    return known.get(token.content, token)


def _content(token: AddedToken | str) -> str:
    return token if isinstance(token, str) else token.content


def write_vocabulary(tokenizer: XLMTokenizer, folder: Path, prefix: str | None) -> tuple[Path, Path]:
    start = f"{prefix}-" if prefix else ""
    vocab, merges = folder / (start + VOCAB), folder / (start + MERGES)
    _write_json(vocab, tokenizer.vocabulary.encoder)
    ranks = tokenizer.vocabulary.ranks
    merges.write_text(
        "".join([f"{pair}\n" for pair in sorted(ranks, key=ranks.__getitem__)]), encoding="utf-8", newline="\n"
    )
    return vocab, merges


def write_folder(tokenizer: XLMTokenizer, folder: Path) -> tuple[Path, ...]:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = tokenizer.vocabulary
    config: dict[str, Any] = {
        "tokenizer_class": "XLMTokenizer",
        "do_lowercase_and_remove_accent": tokenizer.do_lowercase_and_remove_accent,
        "lang2id": tokenizer.lang2id,
        "id2lang": None if tokenizer.id2lang is None else {str(k): v for k, v in tokenizer.id2lang.items()},
        "model_max_length": tokenizer.model_max_length,
        "padding_side": tokenizer.padding_side,
        "truncation_side": tokenizer.truncation_side,
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "additional_special_tokens": tokenizer.additional_special_tokens,
        "added_tokens_decoder": {str(i): vocabulary.added[i].state() for i in sorted(vocabulary.added)},
        **dict.fromkeys(SPECIAL_NAMES),
        **tokenizer.special_tokens_map,
    }
    special_map = {**tokenizer.special_tokens_map, "additional_special_tokens": tokenizer.additional_special_tokens}
    written = [folder / CONFIG, folder / SPECIAL_MAP]
    _write_json(folder / CONFIG, {key: value for key, value in config.items() if value is not None})
    _write_json(folder / SPECIAL_MAP, special_map)
    beyond = {token: index for token, index in vocabulary.added_ids.items() if index >= len(vocabulary.encoder)}
    if beyond:
        _write_json(folder / ADDED, beyond)
        written.append(folder / ADDED)
    if tokenizer.has_tables:
        _write_json(folder / TABLES, tokenizer.moses_tables.data, indent=None)
        written.append(folder / TABLES)
    return (*written, *write_vocabulary(tokenizer, folder, None))


def _write_json(path: Path, data: object, indent: int | None = 2) -> None:
    text = json.dumps(data, indent=indent, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
