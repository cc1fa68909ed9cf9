"""A tokenizer's special tokens as its attributes: `tokenizer.mask_token`, `tokenizer.mask_token_id`."""

from __future__ import annotations

from typing import NoReturn, Protocol

from xlm_runtime.tokenization.vocabulary import Vocabulary


class _Tokenizer(Protocol):
    vocabulary: Vocabulary


class SpecialToken:
    """An attribute that cannot be set: the special token of a name, such as "mask_token"; None for none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, tokenizer: _Tokenizer, owner: type | None = None) -> str | None:
        return tokenizer.vocabulary.named.get(self._name)

    def __set__(self, tokenizer: _Tokenizer, value: str | None) -> NoReturn:
        raise AttributeError(f"{self._name} cannot be set; give it to the tokenizer's constructor.")


class SpecialTokenId:
    """An attribute that cannot be set: the id of the special token of a name; None for none."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, tokenizer: _Tokenizer, owner: type | None = None) -> int | None:
        return tokenizer.vocabulary.special_id(self._name)

    def __set__(self, tokenizer: _Tokenizer, value: int | None) -> NoReturn:
        raise AttributeError(f"{self._name}_id cannot be set; give {self._name} to the tokenizer's constructor.")
