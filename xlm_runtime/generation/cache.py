"""Keys and values of past tokens, as an explicit value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import cache_specs


@dataclass(frozen=True)
class KeyValueCache:
    """Key and value of every layer, by the names of the graph's inputs, and which of the past tokens are real.

    `arrays[name]` is (rows, n_heads, length, head_dim); `mask` is (rows, length) int64. Every operation returns a new
    cache and leaves this one as it is; arrays that do not change are shared.
    """

    arrays: Mapping[str, Array]
    mask: Array

    @classmethod
    def create(cls, config: XLMConfig, rows: int) -> KeyValueCache:
        """A cache of no tokens for `rows` sequences."""
        shape = (rows, config.n_heads, 0, config.head_dim)
        names = [spec.name for spec in cache_specs(config, "past_key_values", "past_sequence")]
        return cls(dict.fromkeys(names, np.zeros(shape, np.float32)), np.zeros((rows, 0), np.int64))

    @staticmethod
    def bytes_needed(config: XLMConfig, rows: int, length: int, precision: str = "fp32") -> int:
        """Bytes of a cache of `rows` sequences of `length` tokens: 2 · layers · rows · length · emb_dim numbers.

        While a step runs, the cache before it and the cache after it are both there.
        """
        return 2 * config.n_layers * rows * length * config.emb_dim * (2 if precision == "fp16" else 4)

    @property
    def rows(self) -> int:
        return int(self.mask.shape[0])

    @property
    def length(self) -> int:
        """Past tokens of a row, padding included."""
        return int(self.mask.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(array.nbytes for array in self.arrays.values())

    def append(self, outputs: Mapping[str, Array], mask: Array) -> KeyValueCache:
        """The cache after a step of the graph.

        Args:
            outputs: the graph's outputs; its `present.*` hold past and new tokens.
            mask: (rows, length + new) int64, which tokens are real.
        """
        arrays = {name: outputs[name.replace("past_key_values", "present", 1)] for name in self.arrays}
        return KeyValueCache(arrays, mask)

    def reorder(self, rows: Sequence[int] | Array) -> KeyValueCache:
        """A cache whose row i is this one's row `rows[i]`: rows may be dropped, doubled and put in another order."""
        index = np.asarray(rows, dtype=np.int64)
        if len(index) == self.rows and np.array_equal(index, np.arange(self.rows)):
            return self
        return KeyValueCache({name: array[index] for name, array in self.arrays.items()}, self.mask[index])

    def trim(self, start: int = 0, stop: int | None = None) -> KeyValueCache:
        """The tokens from `start` to before `stop`.

        Tokens may be cut off at the end, to go back; in front only padding may be.

        Raises:
            InputError: a real token stands before `start`.
        """
        if self.mask[:, :start].any():
            raise InputError(f"A row has real tokens among the first {start} of the cache; only padding can go there.")
        kept = slice(start, stop)
        arrays = {name: array[:, :, kept] for name, array in self.arrays.items()}
        return KeyValueCache(arrays, self.mask[:, kept])

    def without_padding(self) -> KeyValueCache:
        """The cache without tokens that are padding in every row."""
        real = np.flatnonzero(self.mask.any(axis=0))
        start = int(real[0]) if len(real) else self.length
        return self.trim(start) if start else self
