"""Locks on files, held by processes: they end with their process, however it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path

from xlm_runtime.bundle.schema import LOCK_FILE

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int, wait: bool) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int, wait: bool) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # for a child, too, that has the descriptor since a fork


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While the block runs no other process writes the `bundle.json` of this folder; readers need no lock.

    For reading the table, changing it and writing it, not for the long work before. The lock is a hidden file, which is
    gone afterwards.

    Raises:
        OSError: the folder cannot be written.
    """
    with alone(folder / LOCK_FILE, wait=True):
        yield


@contextmanager
def alone(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock on a hidden file, which is gone afterwards; arguments and what is yielded are those of `held`."""
    with held(path, wait) as mine:
        try:
            yield mine
        finally:
            if mine:
                _remove(path)


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold the lock on a file, which is made where it is missing.

    Args:
        wait: until whoever holds it lets it go.

    Yields:
        Whether it is held; always with `wait`.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            try:
                _lock(descriptor, wait)
            except OSError:
                if wait:
                    raise
                yield False
                return
            try:
                if _is_at(descriptor, path):  # not one that its last holder removed, or in a folder that was replaced
                    yield True
                    return
            finally:
                _unlock(descriptor)
        finally:
            os.close(descriptor)


def marks_life(path: Path) -> AbstractContextManager[object]:
    """Hold the lock on what a process is about to write, so that others see that it lives.

    Not on Windows, where a file that is open cannot be renamed: there nothing is taken for dead.
    """
    return nullcontext() if sys.platform == "win32" else held(path)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    """While it is held: who waits for it finds that it is gone, and makes another one."""
    with suppress(PermissionError):  # Windows removes no open file
        path.unlink(missing_ok=True)
