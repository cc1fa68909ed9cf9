"""Caches that share a memory: what is held, for how long, and what it is counted as."""

from __future__ import annotations

import sys
import threading
import tracemalloc

import pytest

from xlm_runtime.tokenization.rotating_cache import CacheMemory, RotatingCache, bytes_of


def test_values_are_made_once_and_the_used_ones_stay() -> None:
    made: list[str] = []

    def make(key: str) -> tuple[int, ...]:
        made.append(key)
        return (len(key),)

    memory = CacheMemory(0.01)
    cache = RotatingCache(make, memory)
    other = RotatingCache(make, memory)
    assert other["other"] == (5,)
    for number in range(100):
        assert cache["often"] == (5,)
        assert cache[f"once {number}"] == (len(f"once {number}"),)
    assert made.count("often") == 1, "asked for in every generation"
    assert len(made) == 102
    assert "other" not in other
    assert other.size() == 0, "two generations ago, in whichever cache"
    assert cache.size() < 102


@pytest.mark.parametrize("megabytes", [0, 0.0001])
def test_what_has_no_room_is_not_kept(megabytes: float) -> None:
    cache = RotatingCache(lambda key: key * 2, CacheMemory(megabytes))
    assert [cache["a" * 100], cache["a" * 100]] == ["a" * 200] * 2
    assert cache.size() == 0


def test_entries_count_at_least_what_they_take() -> None:
    memory = CacheMemory(1000)
    flat: RotatingCache[str, tuple[int, ...]] = RotatingCache(lambda key: tuple(range(len(key))), memory)
    nested: RotatingCache[tuple[str, int], tuple[tuple[int, ...], ...]] = RotatingCache(
        lambda key: tuple((number, number + 1) for number in range(3)), memory, nested=True
    )
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(20_000):
        _ = flat[f"слово{number}"], nested[f"word{number}", 0]
    taken = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert 0.5 * memory.used < taken < memory.used
    assert bytes_of(("a", (1, 2))) == sum(map(sys.getsizeof, ("a", (1, 2), (1, 2))))


def test_threads_share_a_memory() -> None:
    memory = CacheMemory(0.02)
    caches = [RotatingCache(lambda key: key + "!", memory) for _ in range(3)]
    failures: list[str] = []

    def work(seed: int) -> None:
        for number in range(4000):
            key = f"{(number * seed) % 701}"
            if caches[number % 3][key] != key + "!":
                failures.append(key)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 3, 7, 11)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
