"""Bundles at an address: fetched with fsspec, checked by their hashes, and kept once a machine."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from xlm_runtime.bundle.bundle import Bundle, read_contents
from xlm_runtime.bundle.locks import held
from xlm_runtime.bundle.schema import BUNDLE_FILE
from xlm_runtime.checked_json import MOST_BYTES
from xlm_runtime.errors import BundleError, MissingExtraError

CACHE_VARIABLE = "XLM_CACHE"
"""Names the folder for copies in the environment; by default it is `~/.cache/xlm-onnx`."""
_BLOCK = 1 << 20  # bytes that are read at once


def local_bundle(address: str | Path, cache: Path | None = None) -> Path:
    """The folder of a bundle on this machine.

    What has `://` in it is an address, which fsspec reads: `s3://models/bundle`, `https://host/bundle`. Its
    `bundle.json` is read each time, and says whether a copy is here. So what changes at the address is another bundle,
    and what was fetched is fetched once, by whichever process is first; the others wait for it. A copy is there whole
    or not at all. Engines of a bundle, which belong to a machine, are left where they are.

    Args:
        address: a folder, which is returned as it is, or an address.
        cache: where copies are kept; see `CACHE_VARIABLE`.

    Raises:
        BundleError: nothing can be read there, what is there is no bundle, or a file is not that of the export.
        MissingExtraError: fsspec is not installed.
        OSError: the copy cannot be written.
    """
    if "://" not in str(address):
        return Path(address)
    try:
        return _cached(_Files(str(address)), (cache or _default_cache()) / "bundles")
    except BundleError as error:
        raise BundleError(f"The bundle at '{address}' cannot be used: {error}") from error


def _default_cache() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "xlm-onnx")


def _cached(files: _Files, folder: Path) -> Path:
    """The copy in a folder of copies, each under the hash of its `bundle.json`."""
    contents = _contents(files)
    digest = hashlib.sha256(contents).hexdigest()
    copy = folder / digest
    if copy.is_dir():
        return copy
    folder.mkdir(parents=True, exist_ok=True)
    with held(folder / f".{digest}.lock", wait=True):
        if copy.is_dir():  # another process was faster
            return copy
        draft = folder / f".{digest}.part"
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        try:
            _fetch(files, contents, draft)
            return draft.replace(copy)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _contents(files: _Files) -> bytes:
    """`bundle.json`, which says what else there is."""
    contents = b""
    for block in files.read(BUNDLE_FILE):
        contents += block
        if len(contents) > MOST_BYTES:
            raise BundleError(f"'{BUNDLE_FILE}' has more than {MOST_BYTES >> 20} MiB there.")
    return contents


def _fetch(files: _Files, contents: bytes, draft: Path) -> None:
    """Write a bundle's files into a new folder."""
    draft.mkdir()
    _write(draft / BUNDLE_FILE, [contents])
    for name, expected in read_contents(draft)["files"].items():  # plain names
        if _write(draft / name, files.read(name)) != expected:
            raise BundleError(f"File '{name}' has changed since the export (sha256 differs); copy it there again.")
    Bundle.load(draft, accept_failed=True)  # that a verification failed is said when it is opened


class _Files:
    """Files at an address."""

    def __init__(self, address: str) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtraError("fsspec", "ray", "Reading a bundle from an address") from error
        try:
            self._system, root = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:  # a scheme that is unknown, or whose package is not there
            raise BundleError(f"fsspec cannot read it ({error}).") from error
        self._root = root.rstrip("/")

    def read(self, name: str) -> Iterator[bytes]:
        """A file's bytes, in blocks."""
        try:
            with self._system.open(f"{self._root}/{name}", "rb") as file:
                while block := file.read(_BLOCK):
                    yield block
        except Exception as error:  # each file system has errors of its own
            raise BundleError(f"'{name}' cannot be read there ({type(error).__name__}: {error}).") from error


def _write(path: Path, blocks: Iterable[bytes]) -> str:
    """Write a new file, make sure of it on the disk, and give its sha256."""
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()
