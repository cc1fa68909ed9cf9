"""Caches that share a bounded memory; a hit costs one dict lookup."""

from __future__ import annotations

from collections.abc import Callable
from sys import getsizeof
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

# bytes of a dictionary's table for one entry, at its emptiest
_SLOT = 64


class CacheMemory:
    """The memory that several caches share.

    Their entries are held in a young and an old generation. When the young one has half of the memory, it becomes the
    old one in all caches at once, and the old entries go, except for those that were asked for since: they are in the
    young generation again.

    Args:
        megabytes: MiB that keys, values and tables take at most, as `sys.getsizeof` measures them. An entry that takes
            more than half of it alone is not kept.
    """

    def __init__(self, megabytes: float) -> None:
        self.generation_bytes = int(megabytes * 2**20) // 2
        self.used = 0
        """Bytes of the young generation."""
        self._caches: list[RotatingCache[object, object]] = []
        self._lock = Lock()

    def join(self, cache: RotatingCache[K, V]) -> None:
        """Let a cache take part."""
        self._caches.append(cache)  # type: ignore[arg-type]

    def entries(self) -> int:
        """Values held in all caches."""
        return sum(cache.size() for cache in self._caches)

    def rotate(self, size: int) -> None:
        """Begin a new generation, where the young one has no room for so many bytes."""
        with self._lock:
            if self.used + size > self.generation_bytes:
                self.used = 0
                for cache in self._caches:
                    cache.rotate()


class RotatingCache(dict[K, V], Generic[K, V]):
    """`cache[key]` makes missing values with `make`. Threads may share it: at worst two make the same value.

    Args:
        make: makes the value of a key.
        memory: what the entries are counted in.
        nested: whether keys or values are tuples of more than integers.
    """

    def __init__(self, make: Callable[[K], V], memory: CacheMemory, *, nested: bool = False) -> None:
        super().__init__()
        self._make = make
        self._memory = memory
        self._bytes_of: Callable[[object], int] = bytes_of if nested else getsizeof
        self._old: dict[K, V] = {}
        memory.join(self)

    def __missing__(self, key: K) -> V:
        value = self._old.get(key)
        if value is None:
            value = self._make(key)
        memory = self._memory
        size = _SLOT + self._bytes_of(key) + self._bytes_of(value)
        if size <= memory.generation_bytes:
            if memory.used + size > memory.generation_bytes:
                memory.rotate(size)
            memory.used += size
            self[key] = value
        return value

    def rotate(self) -> None:
        """Begin a new generation."""
        self._old = dict(self)
        self.clear()

    def size(self) -> int:
        """Values held, in both generations."""
        return len(self) + len(self._old)


def bytes_of(value: object) -> int:
    """Bytes of an object, and of what a tuple holds: all but integers, which are shared."""
    if not isinstance(value, tuple):
        return getsizeof(value)
    return getsizeof(value) + sum([bytes_of(item) for item in value if item.__class__ is not int])
