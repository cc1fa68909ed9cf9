"""Vocabulary files, special and added tokens: from tokens to ids and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.tokenization.bpe import parse_merges

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before anything else happens to it.

    `lstrip`/`rstrip` take the white space beside it, `single_word` refuses it inside words, `special` tokens are
    left out by `decode(skip_special_tokens=True)`; one that is `normalized` and not special is stored lower-cased
    by a tokenizer that lower-cases.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False

    def state(self) -> dict[str, Any]:
        """As `tokenizer_config.json` holds it."""
        return {
            "content": self.content,
            "lstrip": self.lstrip,
            "normalized": self.normalized,
            "rstrip": self.rstrip,
            "single_word": self.single_word,
            "special": self.special,
        }


def added_token(value: object, special: bool | None = None) -> AddedToken:
    """An `AddedToken` from a string, a saved dictionary or an `AddedToken`. Raises `InputError` for anything else."""
    if isinstance(value, AddedToken):
        token = value
    elif isinstance(value, str):
        token = AddedToken(value)
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        names = AddedToken.__dataclass_fields__
        token = AddedToken(**{name: value[name] for name in names if name in value})
    else:
        raise InputError(f"A token must be a string or an AddedToken, got {value!r}.")
    return token if special is None else replace(token, special=special)


class Vocabulary:
    """Token ↔ id. Added tokens shadow the base vocabulary, as Hugging Face has it."""

    def __init__(
        self,
        encoder: dict[str, int],
        ranks: dict[str, int],
        named: Mapping[str, AddedToken | str | None],
        extra: Sequence[AddedToken | str],
        added: Mapping[int, AddedToken],
        lowercase: bool,
    ) -> None:
        """`named` maps names of `SPECIAL_NAMES` to tokens, `extra` are the additional special ones, `added` those
        a saved configuration has ids for."""
        self.encoder = encoder
        self.ranks = ranks
        self._lowercase = lowercase
        self._decoder: dict[int, str] | None = None
        self.named = {name: named[name] for name in SPECIAL_NAMES if named.get(name) is not None}
        self.extra: list[AddedToken | str] = list(extra)
        self.added = dict(added)
        self.added_ids = {token.content: index for index, token in added.items()}
        self._shadowed = True
        self.add([token for token in self.special_tokens if token not in self.added_ids], special=True)

    @property
    def special_tokens(self) -> list[str]:
        """Named ones first, then the additional ones, each once."""
        tokens = [*self.named.values(), *self.extra]
        return list(dict.fromkeys(_content(token) for token in tokens if token is not None))

    def name(self, attribute: str) -> str | None:
        token = self.named.get(attribute)
        return None if token is None else _content(token)

    def __len__(self) -> int:
        return len(self.encoder) + sum(token not in self.encoder for token in self.added_ids)

    def __contains__(self, token: str) -> bool:
        return token in self.encoder or token in self.added_ids

    def all(self) -> dict[str, int]:
        return {**self.encoder, **self.added_ids}

    def add(self, tokens: Iterable[AddedToken | str], special: bool) -> int:
        """Returns how many tokens were new. Raises `InputError` for what is no token."""
        count = 0
        following = len(self)
        specials = set(self.special_tokens)
        for given in tokens:
            if isinstance(given, str):
                if not given or given in self.added_ids:
                    continue
                is_special = special or given in specials
                token = AddedToken(given, normalized=not is_special, special=is_special)
            else:
                token = added_token(given, special=True if special else None)
                if not token.content:
                    continue
            if self._lowercase and token.normalized and not token.special:
                token = replace(token, content=token.content.lower())
            index = self.added_ids.get(token.content, self.encoder.get(token.content))
            if index is None:
                index = following + count
                count += 1
            if token.special and token.content not in specials:
                self.extra.append(token)
                specials.add(token.content)
            self.added[index] = token
            self.added_ids[token.content] = index
        # whether an added token has another id than the base vocabulary gives it
        self._shadowed = any(self.encoder.get(token) != index for token, index in self.added_ids.items())
        return count

    @property
    def unk_id(self) -> int | None:
        unk = self.name("unk_token")
        if unk is None:
            return None
        return self.encoder.get(unk, self.added_ids.get(unk))

    def id(self, token: str) -> int:
        """Raises `InputError` for an unknown token where there is no `unk_token`."""
        index = self.added_ids.get(token)
        if index is None:
            index = self.encoder.get(token)
        if index is None:
            index = self.unk_id
        if index is None:
            raise InputError(f"Token {token!r} is not in the vocabulary, which has no unk_token either.")
        return index

    def ids(self, tokens: list[str]) -> tuple[int, ...]:
        """`id` of each."""
        if not self._shadowed:
            found = tuple(map(self.encoder.get, tokens))
            if None not in found:
                return found  # type: ignore[return-value]
        return tuple(map(self.id, tokens))

    def token(self, index: int) -> str:
        """`unk_token` for ids that no token has."""
        known = self.added.get(index)
        if known is not None:
            return known.content
        if self._decoder is None:
            self._decoder = {value: key for key, value in self.encoder.items()}
        return self._decoder.get(index, self.name("unk_token") or "")

    def tokens(self, indices: Iterable[int]) -> list[str]:
        return [self.token(index) for index in indices]


def _content(token: AddedToken | str) -> str:
    return token if isinstance(token, str) else token.content


def read_vocabulary(path: Path) -> dict[str, int]:
    """`vocab.json`. Raises `BundleError` where it is missing or is not a token → id table."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"File '{path.name}' not found in path '{path.parent}'.") from error
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(data, dict) or set(map(type, data.values())) - {int}:
        raise BundleError(f"'{path}' must map tokens to ids.")
    return data


def read_merges(path: Path) -> dict[str, int]:
    """`merges.txt`. Raises `BundleError` where it is missing or not UTF-8."""
    try:
        return parse_merges(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(f"File '{path.name}' not found in path '{path.parent}'.") from error
    except ValueError as error:
        raise BundleError(f"'{path}' is not UTF-8 text: {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, empty where the file is missing. Raises `BundleError` where it holds anything else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{path}' is not valid JSON: {error}") from error
    if not isinstance(data, dict):
        raise BundleError(f"'{path}' must hold a JSON object, got {type(data).__name__}.")
    return data
