"""Copies between cache slabs, against slicing of numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.sessions.gpu.fake import FakeDevice
from xlm_runtime.sessions.gpu.cache import Slab, SlabLayout, copy_rows, copy_tokens
from xlm_runtime.sessions.gpu.memory import Copy2D
from xlm_runtime.sessions.gpu.planning import ALIGNMENT

layouts = st.builds(
    SlabLayout,
    tensors=st.integers(1, 4),
    rows=st.integers(1, 5),
    heads=st.integers(1, 3),
    capacity=st.integers(1, 9),
    position=st.sampled_from([2, 6, 16, 256]),
)


def make_slab(device: FakeDevice, layout: SlabLayout, seed: int) -> tuple[Slab, list[np.ndarray]]:
    """A slab of random bytes, and views of its tensors, (rows, heads, capacity, position)."""
    base = device.allocate(layout.nbytes)
    slab = device.bytes_at(base, layout.nbytes)
    slab[:] = np.random.default_rng(seed).integers(0, 256, layout.nbytes)
    size = layout.rows * layout.row
    views = []
    for tensor in range(layout.tensors):
        offset = layout.address(base, tensor) - base
        assert (base + offset) % ALIGNMENT == 0
        views.append(slab[offset : offset + size].reshape(layout.rows, layout.heads, layout.capacity, layout.position))
    return Slab(base, layout), views


def carry_out(device: FakeDevice, copies: Iterable[Copy2D]) -> int:
    copies = list(copies)
    for copy in copies:
        device.copy(copy)
    return len(copies)


@settings(max_examples=60, deadline=None)
@given(layouts, st.integers(1, 5), st.integers(1, 9), st.data())
def test_tokens_arrive_in_their_rows(layout: SlabLayout, rows: int, capacity: int, data: st.DataObject) -> None:
    other = SlabLayout(layout.tensors, rows, layout.heads, capacity, layout.position)
    count = data.draw(st.integers(0, min(layout.capacity, capacity)))
    first = data.draw(st.integers(0, layout.capacity - count))
    at = data.draw(st.integers(0, capacity - count))
    device = FakeDevice()
    (source, from_), (target, to) = make_slab(device, layout, 0), make_slab(device, other, 1)
    expected = [view.copy() for view in to]
    both = min(layout.rows, rows)
    for view, old in zip(expected, from_, strict=True):
        view[:both, :, at : at + count] = old[:both, :, first : first + count]
    carry_out(device, copy_tokens(source, target, first, at, count))
    for view, wanted in zip(to, expected, strict=True):
        np.testing.assert_array_equal(view, wanted)


@settings(max_examples=60, deadline=None)
@given(layouts, st.data())
def test_rows_change_places(layout: SlabLayout, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, layout.rows - 1), min_size=1, max_size=7))
    other = SlabLayout(layout.tensors, len(rows), layout.heads, layout.capacity, layout.position)
    device = FakeDevice()
    (source, from_), (target, to) = make_slab(device, layout, 0), make_slab(device, other, 1)
    assert carry_out(device, copy_rows(source, target, rows)) == len(rows)
    for view, old in zip(to, from_, strict=True):
        np.testing.assert_array_equal(view, old[rows])


def test_new_tokens_of_all_layers_are_one_copy() -> None:
    """At sizes as they are: 12 layers of 16 heads × 64 in half precision."""
    cache = SlabLayout(tensors=24, rows=4, heads=16, capacity=128, position=128)
    new = SlabLayout(tensors=24, rows=4, heads=16, capacity=1, position=128)
    assert cache.dense
    assert new.dense
    (copy,) = copy_tokens(Slab(0, new), Slab(0, cache), 0, 77, 1)
    assert (copy.width, copy.height, copy.target) == (128, 24 * 4 * 16, 77 * 128)
