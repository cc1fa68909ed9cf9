"""Keys and values of past tokens, as an explicit value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import PAST, PRESENT, cache_specs

# Arrays grow by so many tokens: each growth copies them once, and a step reads at most so many places in vain.
CHUNK = 64


class Cache(Protocol):
    """What a decoder needs of past keys and values, wherever they lie.

    A value: operations return another cache, and this one still stands for the tokens that it stood for.
    """

    @property
    def rows(self) -> int:
        """Sequences of the batch."""
        ...

    @property
    def mask(self) -> Array:
        """(rows, length) int64, which of the past tokens are real."""
        ...

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The graph's `past_key_values.*`, each (rows, n_heads, room, head_dim); `room` is `length` or more."""
        ...

    def attention_mask(self, new: Array) -> Array:
        """(rows, room + new) int64: real past tokens, zeros for the room behind them, and `new`, (rows, new)."""
        ...

    def append(self, outputs: Mapping[str, Any], new: Array) -> Cache:
        """The cache with a step's tokens behind its own.

        Args:
            outputs: the graph's outputs; its `present.*` are (rows, n_heads, new, head_dim).
            new: (rows, new) int64, which of the tokens are real.
        """
        ...

    def reorder(self, rows: Sequence[int] | Array) -> Cache:
        """A cache whose row i is this one's row `rows[i]`: rows may be dropped, doubled and put in another order."""
        ...

    def trim(self, start: int = 0, stop: int | None = None) -> Cache:
        """The tokens from `start` to before `stop`."""
        ...

    def without_padding(self) -> Cache:
        """The cache without tokens in front that are padding in every row, where that saves work."""
        ...


class StaticCache(Protocol):
    """Keys and values that stay in place, with room for all tokens from the start; what a decoder needs of them.

    A call writes new ones behind each row's tokens, in memory that all values share which are not reordered: only the
    last of them is of use.
    """

    @property
    def rows(self) -> int:
        """Sequences of the batch."""
        ...

    @property
    def lengths(self) -> Array:
        """(rows,) int64, tokens of each row."""
        ...

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The graph's `past_key_values.*`, each (rows, n_heads, room, head_dim)."""
        ...

    def grown(self, counts: Array) -> StaticCache:
        """The cache with `counts` tokens more in each row, which a call is to write.

        Raises:
            InputError: more tokens than it was made for.
        """
        ...

    def reorder(self, rows: Sequence[int] | Array) -> StaticCache:
        """A cache whose row i is this one's row `rows[i]`."""
        ...


@dataclass(frozen=True, eq=False)
class KeyValueCache:
    """`Cache` in numpy arrays with room for tokens to come, which are contiguous, as sessions want them.

    A value that costs no copies: `append` writes behind the last token, in the same arrays, which a value never looks
    at. Appending a second time to the same value, or to one that `trim` made shorter, copies first.
    """

    inputs: Mapping[str, Array]
    mask: Array
    limit: int
    """most tokens of a row"""
    chunk: int = CHUNK
    _written: list[int] = field(default_factory=lambda: [0])
    """how many tokens the arrays hold, of this value or of one that was appended to it; shared with the arrays"""

    @classmethod
    def create(cls, config: XLMConfig, rows: int, max_length: int | None = None, chunk: int = CHUNK) -> KeyValueCache:
        """A cache of no tokens for `rows` sequences; it takes the type of the first keys and values appended.

        Args:
            max_length: most tokens of a row, padding included; by default the model's positions.
            chunk: tokens by which the arrays grow.
        """
        empty = np.zeros((rows, config.n_heads, 0, config.head_dim), np.float32)
        names = [spec.name for spec in cache_specs(config, PAST, "past_sequence")]
        limit = config.max_position_embeddings if max_length is None else max_length
        return cls(dict.fromkeys(names, empty), np.zeros((rows, 0), np.int64), limit, chunk)

    @staticmethod
    def bytes_needed(config: XLMConfig, rows: int, max_length: int, dtype: Any = np.float32, chunk: int = CHUNK) -> int:
        """Most bytes that a cache of `rows` sequences takes while they grow to `max_length` tokens.

        That is twice its arrays' size, 2 · layers · rows · room · emb_dim numbers each: while they grow, or their rows
        change places, the old ones and the new ones are both there.
        """
        numbers = 2 * config.n_layers * rows * _room(max_length, max_length, chunk) * config.emb_dim
        return 2 * numbers * int(np.dtype(dtype).itemsize)

    @property
    def rows(self) -> int:
        return int(self.mask.shape[0])

    @property
    def length(self) -> int:
        """Past tokens of a row, padding included."""
        return int(self.mask.shape[1])

    @property
    def room(self) -> int:
        """Places of a row, those that are still free included."""
        return int(next(iter(self.inputs.values())).shape[2])

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values, room included."""
        return sum(array.nbytes for array in self.inputs.values())

    def attention_mask(self, new: Array) -> Array:
        free = np.zeros((self.rows, self.room - self.length), np.int64)
        return np.concatenate((self.mask, free, new), axis=1)

    def append(self, outputs: Mapping[str, Array], new: Array) -> KeyValueCache:
        """See `Cache`.

        Raises:
            InputError: more tokens than `max_length`.
        """
        start, stop = self.length, self.length + new.shape[1]
        if stop > self.limit:
            raise InputError(f"The cache was made for at most {self.limit} tokens a row, and these would be {stop}.")
        arrays, written = self.inputs, self._written
        if stop > self.room or written[0] != start:
            dtype = next(outputs[_present(name)].dtype for name in arrays)
            arrays, written = self._copy(stop, dtype), [start]
        for name, array in arrays.items():
            array[:, :, start:stop] = outputs[_present(name)]
        written[0] = stop
        mask = np.concatenate((self.mask, new), axis=1)
        return KeyValueCache(arrays, mask, self.limit, self.chunk, written)

    def reorder(self, rows: Sequence[int] | Array) -> KeyValueCache:
        index = np.asarray(rows, dtype=np.int64)
        if len(index) == self.rows and np.array_equal(index, np.arange(self.rows)):
            return self
        arrays = {name: array[index] for name, array in self.inputs.items()}
        return KeyValueCache(arrays, self.mask[index], self.limit, self.chunk, [self.length])

    def trim(self, start: int = 0, stop: int | None = None) -> KeyValueCache:
        """See `Cache`. Tokens may be cut off at the end, to go back; in front only padding may be.

        Raises:
            InputError: a real token stands before `start`.
        """
        if self.mask[:, :start].any():
            raise InputError(f"A row has real tokens among the first {start} of the cache; only padding can go there.")
        mask = self.mask[:, start:stop]
        if not start:
            return KeyValueCache(self.inputs, mask, self.limit, self.chunk, self._written)
        length = mask.shape[1]
        arrays = {}
        for name, array in self.inputs.items():
            arrays[name] = _zeros(array, _room(length, self.limit, self.chunk))
            arrays[name][:, :, :length] = array[:, :, start : start + length]
        return KeyValueCache(arrays, mask, self.limit, self.chunk, [length])

    def without_padding(self) -> KeyValueCache:
        """The cache without the tokens in front that are padding in every row, where that makes its arrays smaller."""
        real = np.flatnonzero(self.mask.any(axis=0))
        start = int(real[0]) if len(real) else self.length
        return self.trim(start) if _room(self.length - start, self.limit, self.chunk) < self.room else self

    def _copy(self, length: int, dtype: Any) -> dict[str, Array]:
        """This value's tokens in new arrays with room for `length` tokens."""
        arrays = {}
        for name, array in self.inputs.items():
            arrays[name] = _zeros(array, max(self.room, _room(length, self.limit, self.chunk)), dtype)
            arrays[name][:, :, : self.length] = array[:, :, : self.length]
        return arrays


def _present(name: str) -> str:
    """The output that holds the new tokens of the input `past_key_values.{i}.key` or `.value`."""
    return name.replace(PAST, PRESENT, 1)


def _room(length: int, limit: int, chunk: int) -> int:
    """Whole chunks for `length` tokens, but no more than `limit`."""
    return min(-(-length // chunk) * chunk, limit)


def _zeros(like: Array, room: int, dtype: Any = None) -> Array:
    """Finite everywhere: weights of 0 times what is left in memory might not be."""
    rows, n_heads, _, head_dim = like.shape
    return np.zeros((rows, n_heads, room, head_dim), like.dtype if dtype is None else dtype)
