"""The rows of one call: windows of its samples, special tokens around them, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xlm_runtime.tokenization.inputs import Sample, encode_sample
from xlm_runtime.tokenization.options import Padding, Truncation
from xlm_runtime.tokenization.text_encoder import TextEncoder
from xlm_runtime.tokenization.token_row import TokenRow, surround
from xlm_runtime.tokenization.windows import Window, windows


class Rows:
    """What a `BatchEncoding` asks about its rows. Words are only looked for when asked: they cost a second pass.

    Args:
        samples: the texts and pairs, each with its language.
        special: whether special tokens come around them.
        return_offsets: whether spans will be asked for.
    """

    def __init__(
        self,
        encoder: TextEncoder,
        samples: Sequence[Sample],
        padding: Padding,
        truncation: Truncation,
        *,
        special: bool,
        return_offsets: bool,
    ) -> None:
        self._encoder = encoder
        self._vocabulary = vocabulary = encoder.vocabulary
        self._samples = samples
        self._side = padding.side
        self._special = special
        self._with_offsets: dict[int, tuple[TokenRow, TokenRow | None]] = {}
        # each row's sample, and the window of it
        self._rows: list[tuple[int, Window]] = []
        self._unpadded: list[list[int]] = []
        for sample, given in enumerate(samples):
            first, second = encode_sample(encoder, given, return_offsets)
            if return_offsets:
                self._with_offsets[sample] = first, second
            if second is None and truncation.strategy == "do_not_truncate":
                self._rows.append((sample, Window((0, len(first.ids)), None)))
                self._unpadded.append(self._with_special(first.ids, None))
                continue
            added = vocabulary.num_special_tokens_to_add(second is not None) if special else 0
            length = None if second is None else len(second.ids)
            for window in windows(len(first.ids), length, added, truncation):
                a = first.ids[slice(*window.first)]
                b = None if second is None or window.second is None else second.ids[slice(*window.second)]
                self._rows.append((sample, window))
                self._unpadded.append(self._with_special(a, b))
        self._length = padded_length([len(ids) for ids in self._unpadded], padding)
        self._overflow = truncation.overflow
        self.input_ids = self._unpadded
        if self._length is not None:
            self.input_ids = self._padded(self._unpadded, vocabulary.special_id("pad_token"))

    def _with_special(self, first: list[int], second: list[int] | None) -> list[int]:
        if self._special:
            return self._vocabulary.build_inputs_with_special_tokens(first, second)
        return first if second is None else first + second

    def _padded(self, rows: list[list[Any]], value: object) -> list[list[Any]]:
        return [pad(row, self._length, value, self._side) for row in rows]

    def columns(
        self,
        *,
        token_type_ids: bool,
        attention_mask: bool,
        special_tokens_mask: bool,
        offset_mapping: bool,
        length: bool,
    ) -> dict[str, list[Any]]:
        """The encoding's columns by name, one entry a row."""
        data: dict[str, list[Any]] = {"input_ids": self.input_ids}
        if token_type_ids:
            data["token_type_ids"] = self._padded([self._types(window) for _, window in self._rows], 0)
        if attention_mask:
            data["attention_mask"] = self._padded([[1] * len(ids) for ids in self._unpadded], 0)
        if special_tokens_mask:
            count = range(len(self._rows))
            data["special_tokens_mask"] = [[int(n is None) for n in self.sequence_ids(i)] for i in count]
        if offset_mapping:
            data["offset_mapping"] = self._padded([self._spans(*row) for row in self._rows], (0, 0))
        if length:
            data["length"] = [len(ids) for ids in self._unpadded]
        if self._overflow:
            data["overflow_to_sample_mapping"] = [sample for sample, _ in self._rows]
        return data

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, index: int) -> list[str]:
        """A row's tokens as strings."""
        return self._vocabulary.tokens(self.input_ids[index])

    def sequence_ids(self, index: int) -> list[int | None]:
        """0 for the first sequence's tokens, 1 for the second's, None for added special tokens and padding."""
        _, window = self._rows[index]
        first, second = _lengths(window)
        row = self._spread(None, [0] * first, None if second is None else [1] * second)
        return pad(row, self._length, None, self._side)

    def word_ids(self, index: int) -> list[int | None]:
        """The number of each token's word in its sequence, None for added special tokens and padding."""
        first, second = self._parts(*self._rows[index])
        row = self._spread(None, first.words or [], None if second is None else second.words or [])
        return pad(row, self._length, None, self._side)

    def _spans(self, sample: int, window: Window) -> list[tuple[int, int]]:
        first, second = self._parts(sample, window)
        return self._spread((0, 0), first.spans or [], None if second is None else second.spans or [])

    def _parts(self, sample: int, window: Window) -> tuple[TokenRow, TokenRow | None]:
        """A window's tokens with spans and words."""
        known = self._with_offsets.get(sample)
        if known is None:
            known = self._with_offsets[sample] = encode_sample(self._encoder, self._samples[sample], True)
        first, second = known
        return first.cut(window.first), None if second is None or window.second is None else second.cut(window.second)

    def _types(self, window: Window) -> list[int]:
        """0 for the first sequence and the tokens around it, 1 for the second; all 0 without special tokens."""
        first, second = _lengths(window)
        if not self._special:
            return [0] * (first + (second or 0))
        return token_types(first, second)

    def _spread(self, edge: object, first: list[Any], second: list[Any] | None) -> list[Any]:
        if self._special:
            return surround(edge, first, second)
        return first if second is None else first + second


def token_types(first: int, second: int | None) -> list[int]:
    """0 for `<s> A </s>`, 1 for `B </s>`, for sequences of so many tokens. In XLM these index the word embeddings."""
    return [0] * (first + 2) + ([] if second is None else [1] * (second + 1))


def _lengths(window: Window) -> tuple[int, int | None]:
    first = window.first[1] - window.first[0]
    return first, None if window.second is None else window.second[1] - window.second[0]


def padded_length(lengths: Sequence[int], options: Padding) -> int | None:
    """The common length of a batch's rows; None where they stay as they are."""
    if options.strategy == "do_not_pad" or not lengths:
        return None
    target = max(lengths) if options.strategy == "longest" else options.max_length
    if target is None or not options.multiple_of:
        return target
    return -(-target // options.multiple_of) * options.multiple_of


def pad(row: list[Any], length: int | None, value: object, side: str) -> list[Any]:
    """A row filled up to `length`; longer rows stay as they are."""
    if length is None or len(row) >= length:
        return row
    filling = [value] * (length - len(row))
    return filling + row if side == "left" else row + filling
