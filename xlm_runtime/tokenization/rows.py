"""The rows of one call: windows of its samples, special tokens around them, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from xlm_runtime.tokenization.encoding import Options, Row, Tokens, pad, padded_length, windows

if TYPE_CHECKING:
    from xlm_runtime.tokenization.base import TokenizerBase


class Batch:
    """What a `BatchEncoding` asks about its rows. Words are only looked for when asked: they cost a second pass."""

    def __init__(
        self,
        tokenizer: TokenizerBase,
        options: Options,
        special: bool,
        layout: bool,
        encode: Callable[[int, bool], tuple[Tokens, Tokens | None]],
        samples: int,
    ) -> None:
        """`encode(sample, layout)` tokenises a sample's first and second sequence, with spans and words or without."""
        self._tokenizer = tokenizer
        self._side = options.padding_side
        self._special = special
        self._encode = encode
        self._layouts: dict[int, tuple[Tokens, Tokens | None]] = {}
        self._rows: list[Row] = []
        self._unpadded: list[list[int]] = []
        for sample in range(samples):
            first, second = encode(sample, layout)
            if layout:
                self._layouts[sample] = first, second
            if second is None and options.truncation == "do_not_truncate":
                self._rows.append(Row(sample, (0, len(first.ids)), None))
                self._unpadded.append(self._with_special(first.ids, None))
                continue
            added = tokenizer.num_special_tokens_to_add(second is not None) if special else 0
            length = None if second is None else len(second.ids)
            for row in windows(sample, len(first.ids), length, added, options):
                a = first.ids[slice(*row.first)]
                b = None if second is None or row.second is None else second.ids[slice(*row.second)]
                self._rows.append(row)
                self._unpadded.append(self._with_special(a, b))
        self._length = padded_length([len(ids) for ids in self._unpadded], options)
        self._overflow = options.overflow
        self.input_ids = (
            self._unpadded if self._length is None else self._padded(self._unpadded, tokenizer.pad_token_id)
        )

    def _with_special(self, first: list[int], second: list[int] | None) -> list[int]:
        if self._special:
            return self._tokenizer.build_inputs_with_special_tokens(first, second)
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
            data["token_type_ids"] = self._padded([self._types(row) for row in self._rows], 0)
        if attention_mask:
            data["attention_mask"] = self._padded([[1] * len(ids) for ids in self._unpadded], 0)
        if special_tokens_mask:
            count = range(len(self._rows))
            data["special_tokens_mask"] = [[int(n is None) for n in self.sequence_ids(i)] for i in count]
        if offset_mapping:
            data["offset_mapping"] = self._padded([self._spans(row) for row in self._rows], (0, 0))
        if length:
            data["length"] = [len(ids) for ids in self._unpadded]
        if self._overflow:
            data["overflow_to_sample_mapping"] = [row.sample for row in self._rows]
        return data

    def __len__(self) -> int:
        return len(self._rows)

    def tokens(self, index: int) -> list[str]:
        return self._tokenizer.vocabulary.tokens(self.input_ids[index])

    def sequence_ids(self, index: int) -> list[int | None]:
        row = self._spread(self._rows[index], lambda which, part: [which] * (part[1] - part[0]))
        return pad(row, self._length, None, self._side)

    def word_ids(self, index: int) -> list[int | None]:
        row = self._rows[index]
        words = [tokens.words or [] if tokens else [] for tokens in self._layout(row.sample)]
        return pad(self._spread(row, lambda which, part: words[which][slice(*part)]), self._length, None, self._side)

    def _layout(self, sample: int) -> tuple[Tokens, Tokens | None]:
        known = self._layouts.get(sample)
        if known is None:
            known = self._layouts[sample] = self._encode(sample, True)
        return known

    def _spans(self, row: Row) -> list[tuple[int, int]]:
        spans = [tokens.spans or [] if tokens else [] for tokens in self._layout(row.sample)]
        spread = self._spread(row, lambda which, part: spans[which][slice(*part)])
        return [(0, 0) if span is None else span for span in spread]

    def _types(self, row: Row) -> list[int]:
        """0 for the first sequence and the tokens around it, 1 for the second; all 0 without special tokens."""
        first = row.first[1] - row.first[0]
        second = 0 if row.second is None else row.second[1] - row.second[0]
        if not self._special:
            return [0] * (first + second)
        return [0] * (first + 2) + ([] if row.second is None else [1] * (second + 1))

    def _spread(self, row: Row, part: Callable[[int, tuple[int, int]], list[Any]]) -> list[Any]:
        """A row's parts, with None for the special tokens around them."""
        edge = [None] if self._special else []
        spread = [*edge, *part(0, row.first), *edge]
        return spread if row.second is None else [*spread, *part(1, row.second), *edge]
