"""Where a key-value cache lies in device memory, and the copies that change it.

A slab holds the keys and values of all layers, (tensors, rows, heads, capacity, head_dim), tensor by tensor as the
engine reads them. Because all lie at one distance, the new tokens of every layer, row and head are one strided copy,
and a row of every layer is one more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from xlm_runtime.sessions.gpu.planning import aligned


@dataclass(frozen=True)
class Copy2D:
    """`height` pieces of `width` bytes, `pitch` bytes apart, from one device address to another."""

    target: int
    target_pitch: int
    source: int
    source_pitch: int
    width: int
    height: int


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
        """A tensor's shape as the engine is told it."""
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
