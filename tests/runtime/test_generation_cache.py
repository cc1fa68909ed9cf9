"""The cache as a value."""

from __future__ import annotations

import numpy as np
import pytest

from xlm_runtime import InputError, XLMConfig
from xlm_runtime.generation.cache import KeyValueCache

CONFIG = XLMConfig(emb_dim=8, n_heads=2, n_layers=3, vocab_size=20)


def filled(mask: list[list[int]]) -> KeyValueCache:
    """A cache in which each number tells its row and its place."""
    real = np.array(mask)
    rows, length = real.shape
    empty = KeyValueCache.create(CONFIG, rows)
    values = 100 * np.arange(rows)[:, None, None, None] + np.arange(length)[None, None, :, None]
    outputs = {
        name.replace("past_key_values", "present"): np.broadcast_to(values, (rows, 2, length, 4)).astype(np.float32)
        for name in empty.arrays
    }
    return empty.append(outputs, real)


def places(cache: KeyValueCache) -> list[list[float]]:
    return cache.arrays["past_key_values.2.value"][:, 1, :, 3].tolist()


def test_create_and_append() -> None:
    empty = KeyValueCache.create(CONFIG, 2)
    assert (empty.rows, empty.length, empty.nbytes) == (2, 0, 0)
    assert list(empty.arrays)[:2] == ["past_key_values.0.key", "past_key_values.0.value"]
    cache = filled([[0, 1, 1], [1, 1, 1]])
    assert (cache.rows, cache.length) == (2, 3)
    assert cache.nbytes == KeyValueCache.bytes_needed(CONFIG, rows=2, length=3) == 2 * 3 * 2 * 3 * 8 * 4
    assert KeyValueCache.bytes_needed(CONFIG, 2, 3, "fp16") == cache.nbytes // 2
    assert empty.length == 0, "the old value stays"


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
    with pytest.raises(InputError, match="real tokens among the first 2"):
        cache.trim(2)
    assert places(cache.without_padding()) == places(cache.trim(1))
    assert places(cache.reorder([0]).without_padding()) == [[2, 3]]
