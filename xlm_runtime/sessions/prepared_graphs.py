"""Graphs as ONNX Runtime prepared them for this CPU, kept in folders: the next start maps their weights.

Whenever it opens a graph, ONNX Runtime rewrites it for the CPU and packs its weights for the products, in memory of its
own. Both can be saved: packed weights are then mapped from the file, which all processes share, and the graph is not
rewritten again. It packs what it reads once more, and takes the file's weights only where they are the same, so that a
file of another CPU could cost time and no answer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import file_sha256
from xlm_runtime.bundle.atomic import write_json
from xlm_runtime.bundle.locks import alone
from xlm_runtime.errors import EngineError
from xlm_runtime.machine import available_memory, cpu_features, cpu_name
from xlm_runtime.sessions.engine_cache import CachePlace
from xlm_runtime.sessions.session import GraphSource, SessionOptions

GRAPH_FILE, WEIGHTS_FILE, STAMP_FILE = "model.onnx", "model.data", "stamp.json"

# Changes with how a graph is prepared and with what lies in a folder.
_FORMAT = 1

# Where nobody asked for a cache: a smaller graph opens in some 50 ms anyway; what is kept is 1.6 times as large as the
# graph, and preparing it takes twice its size in memory.
_LEAST_BYTES, _MOST_BYTES = 32 << 20, 8 << 30
_DISK, _MEMORY = 4, 3  # times the graph that have to be free

_FIRST_VERSION = (1, 32)
"""Of ONNX Runtime. 1.21 to 1.31 save packed weights, too, and then crash when they compute some graphs with them."""


def find_place(source: GraphSource, options: SessionOptions, version: str) -> PreparedGraph | None:
    """Where a graph is kept for an ONNX Runtime of this version; None if it is not.

    Raises:
        InputError, BundleError: see `CachePlace`.
    """
    folder, required = options.engine_cache, options.cache_required
    if folder is None or tuple(int(part) for part in version.split(".")[:2]) < _FIRST_VERSION:
        return None
    cpu = cpu_features()
    environment = {
        "format": _FORMAT,
        "onnxruntime": version,
        "cpu": [cpu_name(), cpu.architecture, *sorted(cpu.found)],
    }
    place = CachePlace(folder, source, environment, "onnxruntime")
    if not required and place.source_bytes() < _LEAST_BYTES:
        return None
    return PreparedGraph(place, required=required)


class PreparedGraph:
    """The place of one prepared graph: a folder with the graph, its weights, and a stamp that tells their hashes.

    Args:
        place: in the cache, which is made where it is missing, for this user alone.
        required: whether a cache that cannot be used is an error. Without it the graph is opened as if there were
            none, and the least recently used make room for a new one.
    """

    def __init__(self, place: CachePlace, *, required: bool) -> None:
        self._place, self._required = place, required

    def find(self) -> Path | None:
        """The prepared graph's file; None where there is none, or a damaged one.

        Raises:
            InputError: it is there and cannot be read, with `required`.
        """
        folder = self._place.path
        try:
            if not self._required and not _is_mine(self._place.folder):
                return None
            if not _is_whole(folder):
                return None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if self._required:
                raise self._place.failure("read", error) from error
            return None
        with suppress(OSError):  # of a folder that is read-only
            os.utime(folder)
        return folder / GRAPH_FILE

    def make(self, prepare: Callable[[Path], None]) -> Path | None:
        """Prepare the graph and keep it, whole or not at all.

        Args:
            prepare: writes a graph with this path, and its weights beside it, and sees that they can be opened.

        Returns:
            The prepared graph's file; None where another process is making it, or, without `required`, where it
            cannot be kept.

        Raises:
            BundleError: the graph's files are not those that `bundle.json` names.
            InputError: the folder cannot be written, with `required`.
            EngineError: the graph cannot be opened or saved, with `required`.
        """
        place = self._place
        try:
            place.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self._required and not (_is_mine(place.folder) and self._has_room()):
                return None
            with alone(place.folder / f".{place.path.name}.lock") as mine:
                return (self.find() or self._write(prepare)) if mine else None
        except OSError as error:
            if self._required:
                raise place.failure("written", error) from error
            return None
        except EngineError:
            if self._required:
                raise
            return None

    def _has_room(self) -> bool:
        """Whether disk and memory have room to spare."""
        size, memory = self._place.source_bytes(), available_memory()
        free = shutil.disk_usage(self._place.folder).free
        return free >= _DISK * size and (memory is None or memory >= _MEMORY * size)

    def _write(self, prepare: Callable[[Path], None]) -> Path:
        """While the lock is held: nobody else writes here, so what lies under the draft's name was left by the dead."""
        place = self._place
        draft = place.folder / f".{place.path.name}"
        _remove(draft)
        try:
            draft.mkdir(mode=0o700)
            prepare(draft / GRAPH_FILE)
            place.check_source()
            _write_stamp(draft)
            _remove(place.path)
            draft.rename(place.path)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        if not self._required:
            _drop_oldest(place.folder, place.path)
        return place.path / GRAPH_FILE


def _write_stamp(folder: Path) -> None:
    """Hashes of the files, sizes, and times of the files that had them; all on the disk when it is."""
    rows = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        rows[path.name] = {"sha256": file_sha256(path), **_state(path)}
    write_json(folder / STAMP_FILE, rows)


def _is_whole(folder: Path) -> bool:
    """Whether the files are those that the stamp names: by their sizes and times, or else by their hashes.

    Raises:
        OSError: they cannot be read.
    """
    try:
        rows: Any = json.loads((folder / STAMP_FILE).read_bytes())
        states = {name: _state(folder / name) for name in rows}
        changed = [name for name, row in rows.items() if {"sha256": row["sha256"], **states[name]} != row]
        if GRAPH_FILE not in rows or any(states[name]["size"] != rows[name]["size"] for name in changed):
            return False
        if any(file_sha256(folder / name) != rows[name]["sha256"] for name in changed):
            return False
    except (ValueError, TypeError, KeyError):  # of a damaged stamp
        return False
    if changed:  # a copy, whose files have times of their own
        with suppress(OSError):
            write_json(folder / STAMP_FILE, {name: {**row, **states[name]} for name, row in rows.items()})
    return True


def _state(path: Path) -> dict[str, int]:
    state = path.stat()
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns, "inode": state.st_ino}


def _is_mine(folder: Path) -> bool:
    """Whether nobody but this user can have written there."""
    if not hasattr(os, "geteuid"):
        return True
    state = folder.stat()
    return state.st_uid == os.geteuid() and not state.st_mode & 0o022


def _drop_oldest(folder: Path, kept: Path) -> None:
    """Make room: what was used least recently goes until the rest is no larger than `_MOST_BYTES`."""
    with suppress(OSError):
        entries = sorted(folder.glob("*.onnxruntime"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        total = 0
        for path in sorted(entries, key=lambda path: path != kept):
            total += sum(file.stat().st_size for file in path.iterdir())
            if total > _MOST_BYTES and path != kept:
                shutil.rmtree(path)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
