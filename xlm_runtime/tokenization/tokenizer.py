"""XLM's tokenizer: ids, masks, spans and words of texts, pairs and batches, without dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import files
from xlm_runtime.tokenization.base import TokenizerBase
from xlm_runtime.tokenization.encoding import (
    BatchEncoding,
    Tokens,
    parse_options,
    to_array,
)
from xlm_runtime.tokenization.rows import Batch

# a text, or words, or ids
Input = str | Sequence[str] | Sequence[int]


class XLMTokenizer(TokenizerBase):
    """Moses (or a Chinese, Thai or Japanese segmenter), lower-casing and byte-pair merges.

    Ids equal Hugging Face's: `tokenizer(text)` its `tokenizer(text)`, `tokenizer(text, lang=L)` its
    `_tokenize(text, lang=L)`, which is what the model was trained with. Safe to share between threads.
    """

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        mask_alias: str | None = "<mask>",
        ja_model: str | PathLike[str] | None = None,
        do_lowercase_and_remove_accent: bool | None = None,
        model_max_length: int | None = None,
    ) -> XLMTokenizer:
        """Load a folder with `vocab.json` and `merges.txt`, and what else it holds of Hugging Face's tokenizer files
        and `moses.json`. The last two options replace the folder's.

        Raises `BundleError` where files are missing or not what they should be.
        """
        options = files.read_options(folder)
        if do_lowercase_and_remove_accent is not None:
            options["do_lowercase_and_remove_accent"] = do_lowercase_and_remove_accent
        if model_max_length is not None:
            options["model_max_length"] = model_max_length
        return cls(**options, mask_alias=mask_alias, ja_model=ja_model)

    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[str, ...]:
        """Write a folder that `from_pretrained` and Hugging Face load; returns the files' paths."""
        return tuple(map(str, files.write_folder(self, Path(folder))))

    def save_vocabulary(self, folder: str | PathLike[str], filename_prefix: str | None = None) -> tuple[str, str]:
        """Write `vocab.json` and `merges.txt` into a folder that exists; returns their paths."""
        path = Path(folder)
        if not path.is_dir():
            raise InputError(f"'{path}' is not a folder.")
        vocab, merges = files.write_vocabulary(self, path, filename_prefix)
        return str(vocab), str(merges)

    def __call__(
        self,
        text: Input | Sequence[Any],
        text_pair: Input | Sequence[Any] | None = None,
        *,
        lang: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        is_split_into_words: bool = False,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_token_type_ids: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Tokenize a text, a pair, or a batch of either.

        `text`: a string, or a list of strings or of (first, second) pairs; with `is_split_into_words` a list of
        words or a list of such lists. `lang`: one language for all, or one for each text; without it every text is
        treated as Hugging Face's public call does, as English. `max_length` counts special tokens.

        With `return_overflowing_tokens` every window of a text that is too long becomes a row of its own;
        `overflow_to_sample_mapping` says which text it belongs to. Token type ids are only returned when asked for:
        in XLM they index the *word* embeddings.

        Raises `InputError` for unknown options or languages, and for inputs that are not text.
        """
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors={return_tensors!r} is not known; use 'np' for numpy arrays, or None.")
        options = parse_options(
            padding,
            truncation,
            max_length,
            stride,
            pad_to_multiple_of,
            padding_side or self.padding_side,
            self.truncation_side,
            return_overflowing_tokens,
            self.model_max_length,
        )
        if options.padding != "do_not_pad" and self.pad_token_id is None:
            raise InputError("Padding needs a pad_token, and this tokenizer has none.")
        samples, batched = _samples(text, text_pair, is_split_into_words)
        langs = self._languages(lang, len(samples))

        def encode(sample: int, layout: bool) -> tuple[Tokens, Tokens | None]:
            first, second = samples[sample]
            language = langs[sample]
            tokens = self._encode_input(first, language, layout)
            return tokens, None if second is None else self._encode_input(second, language, layout)

        batch = Batch(self, options, add_special_tokens, return_offsets_mapping, encode, len(samples))
        data = batch.columns(
            token_type_ids=bool(return_token_type_ids),
            attention_mask=return_attention_mask is not False,
            special_tokens_mask=return_special_tokens_mask,
            offset_mapping=return_offsets_mapping,
            length=return_length,
        )
        if return_tensors == "np":
            return BatchEncoding({name: to_array(name, rows) for name, rows in data.items()}, batch)
        if not batched and not return_overflowing_tokens:
            data = {name: rows[0] for name, rows in data.items()}
        return BatchEncoding(data, batch)

    def encode(
        self,
        text: Input,
        text_pair: Input | None = None,
        *,
        lang: str | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> list[int]:
        """The `input_ids` of one text or pair."""
        encoding = self(
            text,
            text_pair,
            lang=lang,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            is_split_into_words=not isinstance(text, str),
        )
        ids: list[int] = encoding["input_ids"]
        return ids

    def _languages(self, lang: str | Sequence[str] | None, count: int) -> list[str | None]:
        if lang is None or isinstance(lang, str):
            self.check_language(lang)
            return [lang] * count
        if len(lang) != count:
            raise InputError(f"lang names {len(lang)} languages for {count} texts; give one, or one for each.")
        for each in lang:
            self.check_language(each)
        return list(lang)

    def _encode_input(self, value: Input, lang: str | None, layout: bool) -> Tokens:
        if isinstance(value, str):
            return self.encode_layout(value, lang) if layout else Tokens(self.encode_ids(value, lang))
        if value and isinstance(value[0], (int, np.integer)):
            ids = [int(index) for index in value]
            return Tokens(ids, [(0, 0)] * len(ids), list(range(len(ids)))) if layout else Tokens(ids)
        if not layout:
            return Tokens([index for word in value for index in self.encode_ids(str(word), lang)])
        ids, spans, words = [], [], []
        for number, word in enumerate(value):
            tokens = self.encode_layout(str(word), lang)
            ids += tokens.ids
            spans += tokens.spans or []
            words += [number] * len(tokens.ids)
        return Tokens(ids, spans, words)


def _samples(text: Any, text_pair: Any, split: bool) -> tuple[list[tuple[Input, Input | None]], bool]:
    """Each sample's first and second input, and whether a batch was given."""
    if isinstance(text, str):
        return [(text, _checked(text_pair, split) if text_pair is not None else None)], False
    if not isinstance(text, (list, tuple)):
        raise InputError(f"A text must be a string or a list, got {type(text).__name__}.")
    if text and isinstance(text[0], (int, np.integer)):
        return [(_checked(text, split), _checked(text_pair, split) if text_pair is not None else None)], False
    if split and (not text or isinstance(text[0], str)) and (text or text_pair is not None or text == []):
        return [(_checked(text, split), _checked(text_pair, split) if text_pair is not None else None)], False
    if text_pair is None:
        return [_sample(item, split) for item in text], True
    if isinstance(text_pair, str) or len(text_pair) != len(text):
        raise InputError("text_pair must be a list of the length of text.")
    return [(_checked(a, split), _checked(b, split)) for a, b in zip(text, text_pair, strict=True)], True


def _sample(item: Any, split: bool) -> tuple[Input, Input | None]:
    pair = isinstance(item, tuple) if split else isinstance(item, (list, tuple)) and item and isinstance(item[0], str)
    if pair and len(item) == 2:
        return _checked(item[0], split), _checked(item[1], split)
    if pair and not split:
        raise InputError(f"A pair has two texts, got {len(item)}. For words, use is_split_into_words=True.")
    return _checked(item, split), None


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
