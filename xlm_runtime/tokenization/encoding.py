"""What a call of the tokenizer returns."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from xlm_runtime.errors import InputError


class RowSource(Protocol):
    """Answers for each row of a batch, padding included."""

    def __len__(self) -> int: ...

    def tokens(self, index: int) -> list[str]: ...

    def sequence_ids(self, index: int) -> list[int | None]: ...

    def word_ids(self, index: int) -> list[int | None]: ...


class BatchEncoding(dict[str, Any]):
    """The model's inputs by name, also as attributes, and each row's tokens, words and sequences.

    Lists of lists (one list for a single text), or int64 arrays of shape (rows, sequence) with
    `return_tensors="np"`. `offset_mapping` holds (start, end) in code points of the text that the token stands in,
    (0, 0) for added special tokens and padding; tokens whose characters normalisation swapped share one span.
    """

    def __init__(self, data: dict[str, Any], rows: RowSource) -> None:
        super().__init__(data)
        self._rows = rows

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"BatchEncoding has no '{name}', only: {', '.join(self)}.") from None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """A row's tokens as strings, padding included."""
        return self._rows.tokens(self._index(batch_index))

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """0 for the first sequence's tokens, 1 for the second's, None for added special tokens and padding."""
        return self._rows.sequence_ids(self._index(batch_index))

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """The number of each token's word in its sequence, None for added special tokens and padding.

        Words are those of the tokeniser (punctuation is split off), or the given ones for text split into words.
        """
        return self._rows.word_ids(self._index(batch_index))

    def _index(self, index: int) -> int:
        count = len(self._rows)
        if not -count <= index < count:
            raise IndexError(f"Row {index} of a batch of {count}.")
        return index % count

    def __reduce__(self) -> tuple[Any, ...]:
        rows = range(len(self._rows))
        saved = _SavedRows(
            [self.tokens(i) for i in rows], [self.sequence_ids(i) for i in rows], [self.word_ids(i) for i in rows]
        )
        return BatchEncoding, (dict(self), saved)


class _SavedRows:
    """The rows of a `BatchEncoding` that was pickled: found once, without the tokenizer."""

    def __init__(
        self, tokens: list[list[str]], sequences: list[list[int | None]], words: list[list[int | None]]
    ) -> None:
        self._tokens = tokens
        self._sequences = sequences
        self._words = words

    def __len__(self) -> int:
        return len(self._tokens)

    def tokens(self, index: int) -> list[str]:
        return list(self._tokens[index])

    def sequence_ids(self, index: int) -> list[int | None]:
        return list(self._sequences[index])

    def word_ids(self, index: int) -> list[int | None]:
        return list(self._words[index])


def to_array(name: str, rows: list[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """int64, shape (rows, sequence) or with a last axis of 2 for offsets.

    Raises:
        InputError: the rows are uneven.
    """
    lengths = {len(row) for row in rows if isinstance(row, list)}
    if len(lengths) > 1:
        raise InputError(
            f"'{name}' has rows of {min(lengths)} to {max(lengths)} tokens, which make no array. "
            "Use padding=True (and truncation=True for texts that are too long)."
        )
    return np.asarray(rows, dtype=np.int64)
