"""Hashes of files, and those of large files remembered for the next start: who opens a bundle again reads no 250 MB."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from xlm_runtime.bundle import schema
from xlm_runtime.bundle.atomic import write_json
from xlm_runtime.checked_json import check, read_object
from xlm_runtime.errors import BundleError
from xlm_runtime.machine import user_cache_folder

REHASH = "XLM_ONNX_REHASH"
"""The environment variable that, set to anything, lets every file be read at every start."""

# smaller files are read in a millisecond
_LARGE = 1 << 18
# file systems count time in steps of up to two seconds, within which a file may change and keep its time
_SETTLED_NS = 2_000_000_000
_MOST_REMEMBERED = 256
_FILE = "hashes.json"


def file_sha256(path: Path) -> str:
    """The file's sha256 in hexadecimal."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(1 << 18))  # one block for all, small enough to stay in the CPU's cache
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(block):
            digest.update(block[:size])
    return digest.hexdigest()


def remembered_sha256(path: Path) -> str:
    """The file's sha256, of a large file that is as it was when it was last read without reading it.

    What tells a file as it was from any other is its path, device, inode, size, and times of its last changes of
    content and entry, to the nanosecond. Remembered is what had not changed for two seconds when it was read, for
    as many as 256 files, in `hashes.json` in the user's cache folder; nothing where that cannot be written.
    """
    before = path.stat()
    folder = None if os.environ.get(REHASH) else user_cache_folder()
    if folder is None or before.st_size < _LARGE:
        return file_sha256(path)
    key = _identity(path, before)
    known = _read(folder / _FILE).get(key)
    if known is not None:
        return known
    settled = max(before.st_mtime_ns, before.st_ctime_ns) < time.time_ns() - _SETTLED_NS
    digest = file_sha256(path)
    if settled and _identity(path, path.stat()) == key:
        _remember(folder / _FILE, key, digest)
    return digest


def _identity(path: Path, state: os.stat_result) -> str:
    """What tells a file, as it is, from any other and from itself before a change."""
    numbers = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return hashlib.sha256(repr(numbers).encode() + os.fsencode(os.path.realpath(path))).hexdigest()


def _read(file: Path) -> Mapping[str, str]:
    """What is remembered; nothing where the file is missing or damaged."""
    try:
        values = read_object(file)
        check(values, schema.HASHES, str(file), "remove it")
    except (OSError, BundleError):
        return {}
    return values


def _remember(file: Path, key: str, digest: str) -> None:
    """Whole or not at all. Of what two processes remember at once one may be forgotten, and is read once more."""
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        newest = [*_read(file).items()][1 - _MOST_REMEMBERED :]
        write_json(file, {**dict(newest), key: digest})
