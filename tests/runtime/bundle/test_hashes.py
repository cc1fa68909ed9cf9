"""Hashes of large files are remembered, and never those of a file that has changed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Bundles
from xlm_runtime.bundle import Bundle, file_sha256
from xlm_runtime.bundle.hashes import REHASH, remembered_sha256
from xlm_runtime.errors import BundleError

LARGE = 300_000
LIE = "0" * 64


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where hashes are remembered; all files of the test count as old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.delenv(REHASH, raising=False)
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 60 * 10**9)
    return tmp_path / "cache" / "xlm-onnx" / "hashes.json"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(LARGE))
    return path


def lie(store: Path) -> None:
    """Remember another hash, by which the test sees that a file is not read."""
    store.write_text(json.dumps(dict.fromkeys(json.loads(store.read_text()), LIE)))


def test_a_large_file_is_read_once(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered_sha256(file) == file_sha256(file)
    lie(store)
    assert remembered_sha256(file) == LIE
    monkeypatch.setenv(REHASH, "1")
    assert remembered_sha256(file) == file_sha256(file), "the strict way"


def test_a_change_of_the_content_alone_is_seen(file: Path, store: Path) -> None:
    remembered_sha256(file)
    lie(store)
    before = file.stat()
    time.sleep(0.05)  # more than a tick of the file system's clock
    with file.open("r+b") as opened:
        opened.write(b"\1")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert remembered_sha256(file) == file_sha256(file) != LIE


def test_another_file_in_its_place_is_seen(file: Path, store: Path, tmp_path: Path) -> None:
    remembered_sha256(file)
    lie(store)
    other = tmp_path / "other"
    other.write_bytes(b"\1" * LARGE)
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    assert remembered_sha256(file) == file_sha256(file) != LIE


def test_young_and_small_files_are_read(file: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = file.with_name("small")
    small.write_bytes(b"small")
    assert remembered_sha256(small) == file_sha256(small)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(store.parents[1]))
    monkeypatch.delenv(REHASH, raising=False)
    file.touch()
    assert remembered_sha256(file) == file_sha256(file), "it may change again within a tick of the clock"
    assert not store.exists()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[]", b'{"a": 1}', b'{"%s": "x"}' % (b"0" * 64)])
def test_a_damaged_memory_is_made_anew(file: Path, store: Path, content: bytes) -> None:
    store.parent.mkdir(parents=True)
    store.write_bytes(content)
    assert remembered_sha256(file) == file_sha256(file)
    assert [*json.loads(store.read_text()).values()] == [file_sha256(file)]


def test_a_folder_that_cannot_be_written_is_none(file: Path, store: Path) -> None:
    store.parents[1].write_bytes(b"a file")
    assert remembered_sha256(file) == file_sha256(file)
    store.parents[1].unlink()
    store.mkdir(parents=True)
    assert remembered_sha256(file) == file_sha256(file)


def test_as_many_as_256_are_remembered(file: Path, store: Path) -> None:
    store.parent.mkdir(parents=True)
    store.write_text(json.dumps({f"{number:064x}": LIE for number in range(300)}))
    remembered_sha256(file)
    kept = json.loads(store.read_text())
    assert len(kept) == 256
    assert [*kept.values()][-1] == file_sha256(file)
    assert f"{299:064x}" in kept, "the oldest are forgotten"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_two_processes_remember(tmp_path: Path, store: Path) -> None:
    files = [tmp_path / f"weights{number}" for number in range(8)]
    for number, path in enumerate(files):
        path.write_bytes(bytes([number]) * LARGE)

    def read() -> None:
        for path in files * 3:
            assert remembered_sha256(path) == file_sha256(path)

    context = multiprocessing.get_context("fork")
    readers = [context.Process(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert [reader.exitcode for reader in readers] == [0, 0, 0]
    assert {*json.loads(store.read_text()).values()} <= {file_sha256(path) for path in files}
    assert [path.name for path in store.parent.iterdir()] == [store.name]


def test_a_bundle_checks_its_files_again_only_where_it_is_asked(
    bundles: Bundles, file: Path, store: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    shutil.copy(file, folder / "weights.bin")
    bundle = Bundle.load(folder)
    bundle = replace(bundle, files={**bundle.files, "weights.bin": file_sha256(file)})
    bundle.check_files(remembered=True)
    lie(store)
    bundle.check_files()
    with pytest.raises(BundleError, match=r"'weights.bin' .* has changed since the export"):
        bundle.check_files(["weights.bin"], remembered=True)
