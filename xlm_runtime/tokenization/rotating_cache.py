"""A bounded cache that costs one dict lookup on a hit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RotatingCache(dict[K, V], Generic[K, V]):
    """`cache[key]` makes missing values with `make`.

    At most `entries` values are held in a young and as many in an old generation: when the young one is full it
    becomes the old one, whose values return to the young when asked for. Threads may share it: at worst two of them
    make the same value.

    Args:
        make: makes the value of a key.
        entries: most values of one generation.
        key_length: longest key that is remembered, longer ones are made each time; 0 for no limit.
    """

    def __init__(self, make: Callable[[K], V], entries: int, key_length: int = 0) -> None:
        super().__init__()
        self._make = make
        self._entries = entries
        self._key_length = key_length
        self._old: dict[K, V] = {}

    def __missing__(self, key: K) -> V:
        value = self._old.get(key)
        if value is None:
            value = self._make(key)
            if self._key_length and len(key) > self._key_length:  # type: ignore[arg-type]
                return value
        if len(self) >= self._entries:
            self._old = dict(self)
            self.clear()
        self[key] = value
        return value

    def size(self) -> int:
        """Values held, in both generations."""
        return len(self) + len(self._old)
