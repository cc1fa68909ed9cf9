"""The cache as a value."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from xlm_runtime import InputError, XLMConfig
from xlm_runtime.model.cache import CHUNK, KeyValueCache

CONFIG = XLMConfig(emb_dim=8, n_heads=2, n_layers=3, vocab_size=20, max_position_embeddings=200)
NAMES = [f"past_key_values.{i}.{part}" for i in range(3) for part in ("key", "value")]


def drawn(rng: np.random.Generator, rows: int, new: int) -> dict[str, NDArray[np.float32]]:
    """A step's outputs: key and value of `new` tokens."""
    shape = (rows, 2, new, 4)
    return {name.replace("past_key_values", "present"): rng.normal(size=shape).astype(np.float32) for name in NAMES}


def filled(mask: list[list[int]]) -> KeyValueCache:
    """A cache in which each number tells its row and its place."""
    real = np.array(mask)
    rows, length = real.shape
    values = 100 * np.arange(rows)[:, None, None, None] + np.arange(length)[None, None, :, None]
    filling = np.broadcast_to(values, (rows, 2, length, 4)).astype(np.float32)
    outputs = {name.replace("past_key_values", "present"): filling for name in NAMES}
    return KeyValueCache.create(CONFIG, rows).append(outputs, real)


def places(cache: KeyValueCache) -> list[list[float]]:
    array = cache.inputs["past_key_values.2.value"]
    return array[:, 1, : cache.length, 3].tolist()  # type: ignore[no-any-return]


def test_create_and_append() -> None:
    empty = KeyValueCache.create(CONFIG, 2)
    assert (empty.rows, empty.length, empty.room, empty.nbytes) == (2, 0, 0, 0)
    assert list(empty.inputs) == NAMES
    assert empty.inputs[NAMES[0]].shape == (2, 2, 0, 4)
    cache = filled([[0, 1, 1], [1, 1, 1]])
    assert (cache.rows, cache.length, cache.room) == (2, 3, CHUNK)
    assert all(array.flags.c_contiguous for array in cache.inputs.values())
    mask = cache.attention_mask(np.array([[1, 0], [1, 1]]))
    assert mask[:, :3].tolist() == [[0, 1, 1], [1, 1, 1]]
    assert not mask[:, 3:CHUNK].any()
    assert mask[:, CHUNK:].tolist() == [[1, 0], [1, 1]]
    assert empty.length == 0, "the old value stays"


def test_bytes_are_known_beforehand() -> None:
    for max_length in (1, CHUNK, CHUNK + 1, 150):
        bound = KeyValueCache.bytes_needed(CONFIG, rows=2, max_length=max_length)
        cache = KeyValueCache.create(CONFIG, 2, max_length)
        rng = np.random.default_rng(0)
        for _ in range(max_length):
            before = cache.nbytes
            cache = cache.append(drawn(rng, 2, 1), np.ones((2, 1), np.int64))
            assert before + cache.nbytes <= bound, "old and new arrays together"
        assert 2 * cache.nbytes == bound == 2 * 2 * 3 * 2 * cache.room * 8 * 4
        assert cache.room == min(max_length, -(-max_length // CHUNK) * CHUNK)
        with pytest.raises(InputError, match=f"at most {max_length} tokens a row, and these would be {max_length + 1}"):
            cache.append(drawn(rng, 2, 1), np.ones((2, 1), np.int64))
    assert KeyValueCache.bytes_needed(CONFIG, 2, 64, np.float16) == KeyValueCache.bytes_needed(CONFIG, 2, 64) // 2


def test_append_writes_in_place_and_grows_by_chunks() -> None:
    rng = np.random.default_rng(0)
    cache = KeyValueCache.create(CONFIG, 2, chunk=4)
    one = np.ones((2, 1), np.int64)
    arrays = []
    for _ in range(9):
        cache = cache.append(drawn(rng, 2, 1), one)
        arrays.append(cache.inputs[NAMES[0]])
    assert [array.shape[2] for array in arrays] == [4] * 4 + [8] * 4 + [12]
    assert all(arrays[i] is arrays[i + 1] for i in (0, 1, 2, 4, 5, 6))


def test_the_type_is_that_of_the_keys() -> None:
    half = {name: value.astype(np.float16) for name, value in drawn(np.random.default_rng(0), 1, 2).items()}
    cache = KeyValueCache.create(CONFIG, 1).append(half, np.ones((1, 2), np.int64))
    assert {array.dtype for array in cache.inputs.values()} == {np.dtype(np.float16)}


@pytest.mark.parametrize("seed", range(25))
def test_every_value_stays_what_it_was(seed: int) -> None:
    """Random operations on any value so far, against arrays that are joined and indexed."""
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(1, 4))
    chunk = int(rng.integers(1, 9))
    start = KeyValueCache.create(CONFIG, rows, chunk=chunk)
    none: dict[str, NDArray[np.float32]] = {name: np.zeros((rows, 2, 0, 4), np.float32) for name in NAMES}
    values = [(start, none, np.zeros((rows, 0), np.int64))]
    for _ in range(30):
        cache, want, mask = values[int(rng.integers(max(0, len(values) - 4), len(values)))]
        operation = rng.choice(["append", "append", "append", "reorder", "trim", "without_padding"])
        if operation == "append":
            outputs = drawn(rng, cache.rows, int(rng.integers(1, 4)))
            new = rng.integers(0, 2, (cache.rows, outputs["present.0.key"].shape[2]))
            cache, mask = cache.append(outputs, new), np.concatenate((mask, new), axis=1)
            joined = {name: outputs[name.replace("past_key_values", "present")] for name in NAMES}
            want = {name: np.concatenate((want[name], joined[name]), axis=2) for name in NAMES}
        elif operation == "reorder":
            index = rng.integers(0, cache.rows, int(rng.integers(1, 4)))
            cache, mask, want = cache.reorder(index), mask[index], {name: want[name][index] for name in NAMES}
        else:
            padding = int(np.argmax(mask.any(axis=0))) if mask.any() else cache.length
            first, last = int(rng.integers(0, padding + 1)), int(rng.integers(padding, cache.length + 1))
            if operation == "trim":
                cache = cache.trim(first, last)
            else:
                length, cache = cache.length, cache.without_padding()
                first, last = length - cache.length, length
                assert first in (0, padding)
                assert cache.room <= -(-(length - padding) // chunk) * chunk or first == 0
            mask, want = mask[:, first:last], {name: want[name][:, :, first:last] for name in NAMES}
        values.append((cache, want, mask))
        for cache, want, mask in values:
            np.testing.assert_array_equal(cache.mask, mask)
            for name in NAMES:
                np.testing.assert_array_equal(cache.inputs[name][:, :, : cache.length], want[name])
                assert np.isfinite(cache.inputs[name]).all()


def test_reorder_drops_doubles_and_exchanges_rows() -> None:
    cache = filled([[0, 1], [1, 1]])
    other = cache.reorder([1, 1, 0])
    assert places(other) == [[100, 101], [100, 101], [0, 1]]
    assert other.mask.tolist() == [[1, 1], [1, 1], [0, 1]]
    assert cache.reorder([0, 1]) is cache, "nothing is copied where nothing changes"


def test_trim() -> None:
    cache = filled([[0, 0, 1, 1], [0, 1, 1, 1]])
    assert places(cache.trim(1)) == [[1, 2, 3], [101, 102, 103]]
    assert places(cache.trim(stop=3)) == [[0, 1, 2], [100, 101, 102]]
    assert cache.trim(stop=3).inputs is cache.inputs, "nothing is copied at the end"
    with pytest.raises(InputError, match="real tokens among the first 2"):
        cache.trim(2)


def test_padding_goes_where_that_saves_room() -> None:
    rows = [[0] * 10 + [1] * CHUNK, [1] * (10 + CHUNK)]
    cache = filled(rows)
    assert cache.without_padding() is cache
    assert cache.room == 2 * CHUNK
    short = cache.reorder([0]).without_padding()
    assert places(short) == [list(range(10, 10 + CHUNK))]
    assert short.room == CHUNK
    little = filled([[0, 1], [1, 1]]).reorder([0])
    assert little.without_padding() is little, "a copy would save nothing"
