"""The cache on the device against the one in numpy, over random operations on old and new values."""

from __future__ import annotations

from threading import RLock
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.sessions.gpu.fake import FakeDevice
from xlm_runtime import InputError
from xlm_runtime.model.cache import KeyValueCache
from xlm_runtime.sessions.gpu.cache import Block, DeviceArray, DeviceCache, Slab, SlabLayout
from xlm_runtime.sessions.gpu.memory import BlockPool
from xlm_runtime.sessions.gpu.planning import Tensor, bucket_size

HEADS, HEAD_DIM, LIMIT = 2, 3, 200
NAMES = [f"past_key_values.{layer}.{part}" for layer in range(2) for part in ("key", "value")]
PAST = tuple(Tensor(name, "float16", ("batch", HEADS, "past_sequence", HEAD_DIM)) for name in NAMES)
CONFIG: Any = SimpleNamespace(n_layers=2, n_heads=HEADS, head_dim=HEAD_DIM, emb_dim=6, max_position_embeddings=LIMIT)


class Space:
    """What a session gives its caches."""

    def __init__(self) -> None:
        self.device = FakeDevice()
        self.pool = BlockPool(self.device)
        self.lock = RLock()
        self.past = PAST

    def cache_layout(self, rows: int, tokens: int) -> SlabLayout:
        return self.layout(bucket_size("batch", rows), bucket_size("past_sequence", tokens))

    def layout(self, rows: int, capacity: int) -> SlabLayout:
        return SlabLayout(len(PAST), rows, HEADS, capacity, HEAD_DIM * 2)

    def put(self, outputs: dict[str, np.ndarray]) -> dict[str, DeviceArray]:
        """`present.*` on the device, with padded rows and tokens full of junk, as an engine may leave them."""
        rows, _, new, _ = shape = next(iter(outputs.values())).shape
        layout = self.layout(bucket_size("batch", rows), bucket_size("sequence", new))
        block = Block(self.pool, layout.nbytes, zero=False)
        for i, name in enumerate(NAMES):
            view = self.view(Slab(block.address, layout), i)
            view[:] = 7.0
            view[:rows, :, :new] = outputs[present(name)]
        return dict.fromkeys(map(present, NAMES), DeviceArray(shape, Slab(block.address, layout), block))

    def view(self, slab: Slab, index: int) -> np.ndarray:
        shape = slab.layout.shape(HEAD_DIM)
        size = int(np.prod(shape)) * 2
        return self.device.bytes_at(slab.layout.address(slab.base, index), size).view(np.float16).reshape(shape)

    def read(self, cache: DeviceCache) -> dict[str, np.ndarray]:
        """The cache's tokens, out of what the engine would read."""
        found = {}
        for i, (name, array) in enumerate(cache.inputs.items()):
            assert array.shape == (cache.rows, HEADS, cache.room, HEAD_DIM)
            if array.slab is None:
                found[name] = np.zeros((cache.rows, HEADS, 0, HEAD_DIM), np.float16)
                continue
            whole = self.view(array.slab, i)
            assert np.isfinite(whole).all(), "weights of zero times junk would be NaN"
            found[name] = whole[: cache.rows, :, : cache.length].copy()
        return found


def present(name: str) -> str:
    return name.replace("past_key_values", "present")


def assert_equal(space: Space, cache: DeviceCache, expected: KeyValueCache) -> None:
    assert (cache.rows, cache.length) == (expected.rows, expected.length)
    np.testing.assert_array_equal(cache.mask, expected.mask)
    for name, array in space.read(cache).items():
        np.testing.assert_array_equal(array, expected.inputs[name][:, :, : expected.length])
    new = np.ones((cache.rows, 2), np.int64)
    mask = cache.attention_mask(new)
    assert mask.shape == (cache.rows, cache.room + 2)
    np.testing.assert_array_equal(mask[:, : cache.length], cache.mask)
    assert not mask[:, cache.length : cache.room].any()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_it_holds_what_the_one_in_numpy_holds(data: st.DataObject) -> None:
    space = Space()
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows = data.draw(st.integers(1, 5))
    pairs = [(DeviceCache.create(space, rows, LIMIT), KeyValueCache.create(CONFIG, rows))]
    for _ in range(data.draw(st.integers(1, 8))):
        # any value so far, not only the last: operations leave the others as they are
        cache, expected = pairs[data.draw(st.integers(0, len(pairs) - 1))]
        what = data.draw(st.sampled_from(["append", "append", "append", "reorder", "trim", "without_padding"]))
        if what == "append":
            new = min(data.draw(st.sampled_from([1, 1, 3, 40])), LIMIT - cache.length)
            shape = (cache.rows, HEADS, new, HEAD_DIM)
            outputs = {present(name): rng.normal(size=shape).astype(np.float16) for name in NAMES}
            mask = rng.integers(0, 2, (cache.rows, new))
            pairs.append((cache.append(space.put(outputs), mask), expected.append(outputs, mask)))
        elif what == "reorder":
            order = data.draw(st.lists(st.integers(0, cache.rows - 1), min_size=1, max_size=6))
            pairs.append((cache.reorder(order), expected.reorder(order)))
        elif what == "trim":
            real = np.flatnonzero(expected.mask.any(axis=0))
            start = data.draw(st.integers(0, int(real[0]) if len(real) else expected.length))
            stop = data.draw(st.integers(start, expected.length))
            pairs.append((cache.trim(start, stop), expected.trim(start, stop)))
        else:
            shorter = cache.without_padding()
            pairs.append((shorter, expected.trim(expected.length - shorter.length)))
    for cache, expected in pairs:
        assert_equal(space, cache, expected)


def step(space: Space, cache: DeviceCache, new: int = 1) -> DeviceCache:
    outputs = {present(name): np.ones((cache.rows, HEADS, new, HEAD_DIM), np.float16) for name in NAMES}
    return cache.append(space.put(outputs), np.ones((cache.rows, new), np.int64))


def test_a_step_is_one_copy_and_rooms_double() -> None:
    space = Space()
    cache = step(space, DeviceCache.create(space, 4, LIMIT), 10)
    rooms = [cache.room]
    for _ in range(120):
        before = cache.store
        cache = step(space, cache)
        assert (cache.store is before) == (cache.room == rooms[-1]), "in place while there is room"
        rooms.append(cache.room)
    assert sorted(set(rooms)) == [64, 128, 256]
    assert cache.nbytes == cache.store.slab.layout.nbytes  # type: ignore[union-attr]


def test_memory_goes_round() -> None:
    """Reordering at every step takes two slabs, however long it goes on."""
    space = Space()
    cache = step(space, DeviceCache.create(space, 4, LIMIT), 10)
    for _ in range(5):
        cache = step(space, cache.reorder([1, 0, 2, 2]))
    used = space.device.used
    addresses = set()
    for _ in range(20):
        cache = step(space, cache.reorder([1, 0, 2, 2]))
        assert cache.store is not None
        addresses.add(cache.store.block.address)
    assert space.device.used == used
    assert len(addresses) == 2
    assert cache.reorder([0, 1, 2, 3]) is cache


def test_limits() -> None:
    space = Space()
    cache = step(space, DeviceCache.create(space, 2, 12), 10)
    with pytest.raises(InputError, match="made for at most 12 tokens a row, and these would be 13"):
        step(space, cache, 3)
    with pytest.raises(InputError, match="real tokens among the first 1 of the cache"):
        cache.trim(1)


def test_unused_blocks_make_room() -> None:
    device = FakeDevice(memory=1000)
    pool = BlockPool(device)
    first = pool.take(600, zero=True)
    assert not device.bytes_at(first, 600).any()
    pool.give(first, 600)
    second = pool.take(800, zero=False)
    assert device.used == 800
    pool.give(second, 800)
    assert pool.take(800, zero=False) == second, "the same size has the same address again"
    with pytest.raises(MemoryError, match="more are needed"):
        pool.take(300, zero=False)


def test_the_pool_keeps_a_bounded_number_of_blocks() -> None:
    device = FakeDevice()
    pool = BlockPool(device)
    for size in range(1, 100):
        pool.give(pool.take(size, zero=False), size)
    assert device.used <= sum(range(100 - 18, 100))
