"""Keys and values that stay in place, with room for all tokens to come from the start.

A step writes into them, so nothing is copied and nothing moves: a captured graph finds them where they were. Only other
rows, as beams choose them, are a copy, into a second slab; the pool hands the first one out again for the next, so the
two take turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.sessions.gpu.cache import Block, CacheSpace, DeviceArray, Slab, copy_rows
from xlm_runtime.sessions.session import Array


@dataclass(frozen=True, eq=False)
class StaticDeviceCache:
    """`xlm_runtime.model.cache.StaticCache` on the device. Rows behind its own, up to the slab's, are padding."""

    space: CacheSpace
    lengths: Array
    limit: int
    """most tokens of a row"""
    inputs: Mapping[str, Any]
    slab: Slab
    block: Block

    @classmethod
    def create(cls, space: CacheSpace, rows: int, limit: int) -> StaticDeviceCache:
        """A cache of no tokens for `rows` sequences of at most `limit` tokens.

        Raises:
            OutOfMemoryError: the device has no room for them.
        """
        layout = space.cache_layout(rows, limit)
        with space.lock:
            space.device.activate()
            block = Block(space.pool, layout.nbytes, zero=True)
        slab = Slab(block.address, layout)
        return cls(space, np.zeros(rows, np.int64), limit, _inputs(space, rows, slab, block), slab, block)

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def grown(self, counts: Array) -> StaticDeviceCache:
        lengths = self.lengths + counts
        if len(lengths) and lengths.max() > self.limit:
            raise InputError(
                f"The cache was made for at most {self.limit} tokens a row, and these would be {lengths.max()}. It is "
                "static and does not grow: make it with room for all tokens to come."
            )
        return replace(self, lengths=lengths)

    def reorder(self, rows: Sequence[int] | Array) -> StaticDeviceCache:
        index = np.asarray(rows, dtype=np.int64)
        if np.array_equal(index, np.arange(self.rows)):
            return self
        layout = replace(self.slab.layout, rows=self.space.cache_layout(len(index), self.limit).rows)
        with self.space.lock:
            self.space.device.activate()
            block = Block(self.space.pool, layout.nbytes, zero=False)
            slab = Slab(block.address, layout)
            for copy in copy_rows(self.slab, slab, map(int, index)):
                self.space.device.copy(copy)
        inputs = _inputs(self.space, len(index), slab, block)
        return replace(self, lengths=self.lengths[index], inputs=inputs, slab=slab, block=block)


def _inputs(space: CacheSpace, rows: int, slab: Slab, block: Block) -> Mapping[str, DeviceArray]:
    _, heads, _, head_dim = space.past[0].axes
    array = DeviceArray((rows, int(heads), slab.layout.capacity, int(head_dim)), slab, block)
    return dict.fromkeys((tensor.name for tensor in space.past), array)
