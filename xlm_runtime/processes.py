"""What does not outlive a fork: threads of engines, and work that was under way in a thread."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Something that is made at once, and made again in a process that was forked from this one.

    A fork copies an engine's memory, but not its threads, and a call would wait for them for ever. So would its end:
    what the fork copied is therefore never taken down, and its memory stays shared with the parent.

    Args:
        make: makes it.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made = {os.getpid(): make()}  # by process

    def get(self) -> T:
        """It, as it was made in this process."""
        process = os.getpid()
        made = self._made.get(process)
        if made is None:  # two threads may make it at once: the first one's is for both
            made = self._made.setdefault(process, self._make())
        return made

    def drop(self) -> None:
        """Have it made anew when it is asked for again."""
        self._made.pop(os.getpid(), None)

    def __del__(self) -> None:
        for process, made in getattr(self, "_made", {}).items():
            if process != os.getpid():
                _keep(made)


def _keep(thing: object) -> None:
    """Never take it down: a reference more than there are."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
