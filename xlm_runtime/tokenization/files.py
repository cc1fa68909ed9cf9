"""A tokenizer's folder in Hugging Face's format: reading it to plain data, and writing it from plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from xlm_runtime.checked_json import (
    Check,
    check,
    flag,
    map_of,
    matching,
    nullable,
    one_of,
    positive,
    read_object,
    record,
    text,
    whole,
)
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.tokenization.vocabulary import SPECIAL_NAMES, AddedToken, added_token, token_text
from xlm_runtime.tokenization.word_files import MERGES, TOKEN_INDEX, VOCAB, WHOLE_WORDS, Words, write_words

CONFIG, SPECIAL_MAP = "tokenizer_config.json", "special_tokens_map.json"
ADDED, TABLES = "added_tokens.json", "moses.json"
_ID = whole(0, 2**31 - 1)
_SIDE = nullable(one_of("left", "right"))
_PLAIN_OPTIONS = {
    "lang2id": nullable(map_of(text, _ID)),
    "id2lang": nullable(map_of(matching(r"\d{1,9}", "the number of a language"), text)),
    "model_max_length": nullable(positive),
    "padding_side": _SIDE,
    "truncation_side": _SIDE,
    "clean_up_tokenization_spaces": nullable(flag),
}
_ADDED_TOKENS = map_of(text, _ID)
_REMEDY = "copy the tokenizer's folder again, or save it again"


def read_options(folder: str | PathLike[str], own: Mapping[str, Check]) -> dict[str, Any]:
    """The tokenizer's options in a folder, by the names of its constructor's arguments.

    As in Hugging Face, `added_tokens_decoder` in the configuration goes before the older files
    `special_tokens_map.json` and `added_tokens.json`, which are then not read.

    Args:
        own: further options of the tokenizer's class, and what each may hold.

    Raises:
        BundleError: files are missing or contradictory.
    """
    path = Path(folder)
    if not path.is_dir():
        raise BundleError(f"'{path}' is not a folder. Expected one that holds {VOCAB} and {MERGES}.")
    config = _read_json(path / CONFIG)
    plain = {**_PLAIN_OPTIONS, **own}
    check(config, record({}, plain), f"'{path / CONFIG}'", _REMEDY)
    saved = config.get("added_tokens_decoder")
    added: dict[int, AddedToken] = {}
    special: dict[str, Any] = {name: config[name] for name in SPECIAL_NAMES if name in config}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens")
    try:
        if saved is not None:
            added = {int(index): added_token(token) for index, token in saved.items()}
        else:
            mapped = _read_json(path / SPECIAL_MAP)
            special |= {name: mapped[name] for name in SPECIAL_NAMES if name in mapped}
            extra = mapped.get("extra_special_tokens") or mapped.get("additional_special_tokens") or extra
        by_content = {token.content: token for token in added.values()}
        named = {name: _special(value, by_content) for name, value in special.items()}
        extra_tokens = None
        if extra is not None:  # None is a token of no list: `added_token` says so
            extra_tokens = [_special(value, by_content) or added_token(value) for value in _values(extra)]
    except (InputError, AttributeError, TypeError, ValueError) as error:
        raise BundleError(f"'{path / CONFIG}' holds special tokens that cannot be read: {error}") from error
    if any(index < 0 for index in added):
        raise BundleError(f"'{path / CONFIG}' has added tokens with negative ids.")
    if saved is None:
        known = {token_text(token) for token in [*named.values(), *(extra_tokens or [])] if token is not None}
        listed = _read_json(path / ADDED)
        check(listed, _ADDED_TOKENS, f"'{path / ADDED}'", _REMEDY)
        for content, index in listed.items():
            is_special = content in known
            added[index] = AddedToken(content, normalized=not is_special, special=is_special)
    options: dict[str, Any] = {name: config[name] for name in plain if config.get(name) is not None}
    if "id2lang" in options:
        options["id2lang"] = {int(index): lang for index, lang in options["id2lang"].items()}
    options |= named
    if extra_tokens is not None:
        options["additional_special_tokens"] = extra_tokens
    tables = _read_json(path / TABLES)
    return options | {
        "vocab_file": path / VOCAB,
        "merges_file": path / MERGES,
        "whole_words_file": path / WHOLE_WORDS if (path / WHOLE_WORDS).exists() else None,
        "token_index_file": path / TOKEN_INDEX if (path / TOKEN_INDEX).exists() else None,
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


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing."""
    try:
        return read_object(path)
    except FileNotFoundError:
        return {}


def write_folder(
    folder: Path,
    *,
    tokenizer_class: str,
    encoder: Mapping[str, int],
    ranks: Mapping[str, int],
    options: Mapping[str, Any],
    special: Mapping[str, str],
    additional: Sequence[str],
    added: Mapping[int, AddedToken],
    tables: Mapping[str, Any] | None,
    whole_words: bytes,
) -> tuple[Path, ...]:
    """Write a folder that `read_options` and Hugging Face read.

    Args:
        tokenizer_class: Hugging Face's.
        encoder: the base vocabulary, token → id.
        ranks: rank of each byte-pair merge.
        options: the configuration's plain entries.
        special: the special tokens by name.
        additional: the further special tokens.
        added: id → added token.
        tables: the contents of `moses.json`; None to write none.
        whole_words: a byte for each id, see `find_whole_words`; empty where ids are not 0, 1, 2, ….

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "tokenizer_class": tokenizer_class,
        **{name: value for name, value in options.items() if value is not None},
        "additional_special_tokens": list(additional),
        "added_tokens_decoder": {str(index): added[index].state() for index in sorted(added)},
        **special,
    }
    written = [folder / CONFIG, folder / SPECIAL_MAP]
    _write_json(folder / CONFIG, config)
    _write_json(folder / SPECIAL_MAP, {**special, "additional_special_tokens": list(additional)})
    beyond = {token.content: index for index, token in added.items() if index >= len(encoder)}
    if beyond:
        _write_json(folder / ADDED, beyond)
        written.append(folder / ADDED)
    if tables is not None:
        _write_json(folder / TABLES, tables, indent=None)
        written.append(folder / TABLES)
    return (*written, *write_words(folder, Words(encoder, ranks, whole_words)))


def _write_json(path: Path, data: object, indent: int | None = 2) -> None:
    text = json.dumps(data, indent=indent, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")
