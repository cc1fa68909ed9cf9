"""What a call is given: a text, words or ids, a pair of these, or a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.text_encoder import TextEncoder
from xlm_runtime.tokenization.token_row import TokenRow

# a text, or words, or ids
Input = str | Sequence[str] | Sequence[int]


class Sample(NamedTuple):
    """One text or pair, and the language of both."""

    first: Input
    second: Input | None
    lang: str | None


def read_samples(text: Any, text_pair: Any, lang: str | Sequence[str] | None, split: bool) -> tuple[list[Sample], bool]:
    """Each sample of a call.

    Args:
        lang: the language of all, or one for each.
        split: whether texts come as lists of words.

    Returns:
        The samples, and whether a batch was given.

    Raises:
        InputError: something that is no text, or a number of languages that is not that of the texts.
    """
    inputs, batched = _read_inputs(text, text_pair, split)
    if lang is None or isinstance(lang, str):
        return [Sample(first, second, lang) for first, second in inputs], batched
    if len(lang) != len(inputs):
        raise InputError(f"lang names {len(lang)} languages for {len(inputs)} texts; give one, or one for each.")
    return [Sample(*pair, each) for pair, each in zip(inputs, lang, strict=True)], batched


def encode_sample(encoder: TextEncoder, sample: Sample, return_offsets: bool) -> tuple[TokenRow, TokenRow | None]:
    """The tokens of a sample's first and second sequence."""
    first, second, lang = sample
    tokens = _encode(encoder, first, lang, return_offsets)
    return tokens, None if second is None else _encode(encoder, second, lang, return_offsets)


def _encode(encoder: TextEncoder, value: Input, lang: str | None, return_offsets: bool) -> TokenRow:
    """Given words number the tokens, and spans are those in each word."""
    if isinstance(value, str):
        return encoder.ids_and_offsets(value, lang) if return_offsets else TokenRow(encoder.ids(value, lang))
    if value and isinstance(value[0], (int, np.integer)):
        ids = [int(index) for index in value]
        return TokenRow(ids, [(0, 0)] * len(ids), list(range(len(ids)))) if return_offsets else TokenRow(ids)
    if not return_offsets:
        return TokenRow([index for word in value for index in encoder.ids(str(word), lang)])
    return encoder.words_and_offsets([str(word) for word in value], lang)


def _read_inputs(text: Any, text_pair: Any, split: bool) -> tuple[list[tuple[Input, Input | None]], bool]:
    if isinstance(text, str):
        return [(text, _optional(text_pair, split))], False
    if not isinstance(text, (list, tuple)):
        raise InputError(f"A text must be a string or a list, got {type(text).__name__}.")
    if text and isinstance(text[0], (int, np.integer)):
        return [(_checked(text, split), _optional(text_pair, split))], False
    if split and (not text or isinstance(text[0], str)) and (text or text_pair is not None or text == []):
        return [(_checked(text, split), _optional(text_pair, split))], False
    if text_pair is None:
        return [_pair(item, split) for item in text], True
    if isinstance(text_pair, str) or len(text_pair) != len(text):
        raise InputError("text_pair must be a list of the length of text.")
    return [(_checked(a, split), _checked(b, split)) for a, b in zip(text, text_pair, strict=True)], True


def _pair(item: Any, split: bool) -> tuple[Input, Input | None]:
    pair = isinstance(item, tuple) if split else isinstance(item, (list, tuple)) and item and isinstance(item[0], str)
    if pair and len(item) == 2:
        return _checked(item[0], split), _checked(item[1], split)
    if pair and not split:
        raise InputError(f"A pair has two texts, got {len(item)}. For words, use is_split_into_words=True.")
    return _checked(item, split), None


def _optional(value: Any, split: bool) -> Input | None:
    return None if value is None else _checked(value, split)


def _checked(value: Any, split: bool) -> Input:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple, np.ndarray)):
        if all(isinstance(item, (int, np.integer)) for item in value) and (len(value) or not split):
            return list(value)
        if split and all(isinstance(item, str) for item in value):
            return list(value)
    raise InputError(
        f"A text must be a string{', a list of words' if split else ''} or a list of ids, got {type(value).__name__}: "
        f"{str(value)[:40]!r}."
    )
