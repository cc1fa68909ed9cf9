"""Keys and values of past tokens that stay on the device; see `xlm_runtime.model.cache.Cache`.

A slab holds the keys and values of all layers, (tensors, rows, heads, capacity, head_dim), tensor by tensor as the
executor reads them. Because all lie at one distance, the new tokens of every layer, row and head are one strided copy,
and a row of every layer is one more.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, Protocol

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.sessions.gpu.memory import BlockPool, Copy2D, Device
from xlm_runtime.sessions.gpu.planning import Shape, Tensor, aligned
from xlm_runtime.sessions.session import Array
from xlm_runtime.tasks import PAST, PRESENT


@dataclass(frozen=True)
class SlabLayout:
    """Sizes of a slab. `tensors` is two for each layer, `position` the bytes of one token's head_dim numbers."""

    tensors: int
    rows: int
    heads: int
    capacity: int
    position: int

    @property
    def row(self) -> int:
        """Bytes of a row of one tensor."""
        return self.heads * self.capacity * self.position

    @property
    def stride(self) -> int:
        """Bytes from one tensor to the next."""
        return aligned(max(self.rows * self.row, 1))

    @property
    def nbytes(self) -> int:
        return self.tensors * self.stride

    @property
    def dense(self) -> bool:
        """Whether nothing lies between the tensors."""
        return self.stride == self.rows * self.row

    def shape(self, head_dim: int) -> tuple[int, int, int, int]:
        """A tensor's shape as the executor is told it."""
        return self.rows, self.heads, self.capacity, head_dim

    def address(self, base: int, tensor: int) -> int:
        return base + tensor * self.stride


@dataclass(frozen=True)
class Slab:
    """A layout at an address."""

    base: int
    layout: SlabLayout


def copy_tokens(source: Slab, target: Slab, first: int, at: int, count: int) -> Iterator[Copy2D]:
    """Tokens `first` to `first + count` of all rows that both have, to position `at` of the same rows."""
    one, other = source.layout, target.layout
    rows = min(one.rows, other.rows)
    from_, to = source.base + first * one.position, target.base + at * other.position
    pitches = other.capacity * other.position, one.capacity * one.position
    width, height = count * one.position, rows * one.heads
    if not width or not height:
        return
    if one.rows == other.rows and one.dense and other.dense:
        yield Copy2D(to, pitches[0], from_, pitches[1], width, height * one.tensors)
        return
    for tensor in range(one.tensors):
        yield Copy2D(other.address(to, tensor), pitches[0], one.address(from_, tensor), pitches[1], width, height)


def copy_rows(source: Slab, target: Slab, rows: Iterable[int]) -> Iterator[Copy2D]:
    """Row `rows[i]` of all tensors to row i; both slabs have the same capacity."""
    one, other = source.layout, target.layout
    for i, row in enumerate(rows):
        to, from_ = target.base + i * other.row, source.base + row * one.row
        if one.row:
            yield Copy2D(to, other.stride, from_, one.stride, one.row, one.tensors)


class Block:
    """Device memory out of a pool, which gets it back when nothing refers to the block any more."""

    def __init__(self, pool: BlockPool, size: int, *, zero: bool) -> None:
        self.address = pool.take(size, zero=zero)
        weakref.finalize(self, pool.give, self.address, size)


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """A key or value on the device. Rows behind those of `shape`, up to those of its slab, are padding."""

    shape: Shape
    slab: Slab | None = None
    """of the keys and values of all layers, one of which this is; None where there are no tokens"""
    owner: Block | None = None
    """keeps the memory"""


class CacheSpace(Protocol):
    """Where caches live: a session's device, and what its executor takes."""

    device: Device
    pool: BlockPool
    lock: RLock

    @property
    def past(self) -> tuple[Tensor, ...]:
        """The executor's inputs for keys and values."""
        ...

    def cache_layout(self, rows: int, tokens: int) -> SlabLayout:
        """Room for `rows` sequences of `tokens` tokens or more, in sizes that a step of one token takes."""
        ...


@dataclass(eq=False)
class _Store:
    """A slab, and how many tokens were written into it, of whichever cache that shares it."""

    block: Block
    slab: Slab
    written: int
    arrays: dict[int, dict[str, DeviceArray]] = field(default_factory=dict)
    """`DeviceCache.inputs` for a number of rows"""


@dataclass(frozen=True, eq=False)
class DeviceCache:
    """`Cache` on the device. `append` is one copy on the device, which writes behind the last token in place; a cache
    is a value all the same, since appending to an older one copies first.
    """

    space: CacheSpace
    mask: Array
    limit: int
    """most tokens of a row"""
    store: _Store | None = field(default=None, repr=False)

    @classmethod
    def create(cls, space: CacheSpace, rows: int, max_length: int) -> DeviceCache:
        """A cache of no tokens for `rows` sequences of at most `max_length` tokens."""
        return cls(space, np.zeros((rows, 0), np.int64), max_length)

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
        return 0 if self.store is None else self.store.slab.layout.capacity

    @property
    def nbytes(self) -> int:
        """Bytes on the device, room and padded rows included."""
        return 0 if self.store is None else self.store.slab.layout.nbytes

    @property
    def inputs(self) -> Mapping[str, Any]:
        if self.store is not None and self.rows in self.store.arrays:
            return self.store.arrays[self.rows]
        heads, head_dim = heads_and_size(self.space.past[0])
        shape = (self.rows, heads, self.room, head_dim)
        names = [tensor.name for tensor in self.space.past]
        if self.store is None:
            return dict.fromkeys(names, DeviceArray(shape))
        array = DeviceArray(shape, self.store.slab, self.store.block)
        self.store.arrays[self.rows] = arrays = dict.fromkeys(names, array)
        return arrays

    def attention_mask(self, new: Array) -> Array:
        free = np.zeros((self.rows, self.room - self.length), np.int64)
        return np.concatenate((self.mask, free, new), axis=1)

    def append(self, outputs: Mapping[str, Any], new: Array) -> DeviceCache:
        """See `Cache`; the `present.*` among `outputs` are on the device.

        Raises:
            InputError: more tokens than `max_length`.
            OutOfMemoryError: the device has no room for them.
        """
        start, stop = self.length, self.length + new.shape[1]
        if stop > self.limit:
            raise InputError(f"The cache was made for at most {self.limit} tokens a row, and these would be {stop}.")
        present: Slab = outputs[self.space.past[0].name.replace(PAST, PRESENT, 1)].slab
        with self.space.lock:
            store = self.store
            if store is None or stop > self.room or store.written != start:
                store = self._copied(self.space.cache_layout(self.rows, max(stop, self.room)))
            self._enqueue(copy_tokens(present, store.slab, 0, start, new.shape[1]))
            store.written = stop
        return replace(self, mask=np.concatenate((self.mask, new), axis=1), store=store)

    def reorder(self, rows: Sequence[int] | Array) -> DeviceCache:
        index = np.asarray(rows, dtype=np.int64)
        if len(index) == self.rows and np.array_equal(index, np.arange(self.rows)):
            return self
        store = self.store
        if store is not None:
            with self.space.lock:
                layout = replace(store.slab.layout, rows=self.space.cache_layout(len(index), self.room).rows)
                target = self._store(layout, self.length)
                self._enqueue(copy_rows(store.slab, target.slab, map(int, index)))
                store = target
        return replace(self, mask=self.mask[index], store=store)

    def trim(self, start: int = 0, stop: int | None = None) -> DeviceCache:
        """See `Cache`. Tokens may be cut off at the end, to go back; in front only padding may be.

        Raises:
            InputError: a real token stands before `start`.
        """
        if self.mask[:, :start].any():
            raise InputError(f"A row has real tokens among the first {start} of the cache; only padding can go there.")
        mask = self.mask[:, start:stop]
        if not start or self.store is None:
            return replace(self, mask=mask)
        with self.space.lock:
            store = self._copied(self.space.cache_layout(self.rows, mask.shape[1]), start, mask.shape[1])
        return replace(self, mask=mask, store=store)

    def without_padding(self) -> DeviceCache:
        """The cache without the tokens in front that are padding in every row, where that makes it smaller."""
        real = np.flatnonzero(self.mask.any(axis=0))
        start = int(real[0]) if len(real) else self.length
        smaller = start and self.space.cache_layout(self.rows, self.length - start).capacity < self.room
        return self.trim(start) if smaller else self

    def _copied(self, layout: SlabLayout, first: int = 0, count: int | None = None) -> _Store:
        """Tokens from `first` on in a slab of their own."""
        count = self.length if count is None else count
        target = self._store(layout, count)
        if self.store is not None:
            self._enqueue(copy_tokens(self.store.slab, target.slab, first, 0, count))
        return target

    def _store(self, layout: SlabLayout, written: int) -> _Store:
        block = Block(self.space.pool, layout.nbytes, zero=True)
        return _Store(block, Slab(block.address, layout), written)

    def _enqueue(self, copies: Iterable[Copy2D]) -> None:
        self.space.device.activate()
        for copy in copies:
            self.space.device.copy(copy)


def heads_and_size(tensor: Tensor) -> tuple[int, int]:
    """n_heads and head_dim of a key or value, (batch, n_heads, past_sequence, head_dim)."""
    _, heads, _, head_dim = tensor.axes
    return int(heads), int(head_dim)
