"""Bundles at an address: fetched once, whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.paths import ROOT
from xlm_runtime import pipeline
from xlm_runtime.bundle import BUNDLE_FILE, Bundle
from xlm_runtime.bundle.remote import CACHE_VARIABLE, local_bundle
from xlm_runtime.errors import BundleError

fsspec = pytest.importorskip("fsspec")
CLASSIFY = "text-classification"

# fetches a bundle by a file system that notes what is opened, waits a little, and kills the process at one name
CHILD = """
import os, signal, sys, time
import fsspec
from fsspec.implementations.local import LocalFileSystem
from xlm_runtime.bundle.remote import local_bundle

address, log, fatal = sys.argv[1:]

class Noting(LocalFileSystem):
    protocol = "noting"

    def open(self, path, mode="rb", **options):
        name = os.path.basename(path)
        with open(log, "a") as file:
            file.write(name + "\\n")
        if name == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.02)
        return super().open(path, mode, **options)

fsspec.register_implementation("noting", Noting)
print(local_bundle(address))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "bundles"


@pytest.fixture
def remote(bundles: Bundles) -> Any:
    """A bundle in fsspec's memory, and where it is."""
    memory = fsspec.filesystem("memory")
    memory.put(str(bundles(CLASSIFY)), "/models/labels", recursive=True)
    yield memory
    memory.rm("/models", recursive=True)


def start(folder: Path, log: Path, fatal: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CHILD, f"noting://{folder}", str(log), fatal]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_a_copy_is_the_bundle_and_is_made_once(bundles: Bundles, remote: Any, cache: Path) -> None:
    folder = bundles(CLASSIFY)
    assert local_bundle(folder) == folder
    copy = local_bundle("memory://models/labels")
    Bundle.load(copy).check_files()
    assert pipeline(CLASSIFY, copy)("Good!") == pipeline(CLASSIFY, folder)("Good!")
    names = set(Bundle.load(folder).files)
    for name in names:
        remote.rm(f"/models/labels/{name}")
    assert local_bundle("memory://models/labels") == copy  # by bundle.json alone
    contents = json.loads((folder / BUNDLE_FILE).read_text(encoding="utf-8")) | {"source": {"name": "another"}}
    remote.pipe("/models/labels/bundle.json", json.dumps(contents).encode())
    with pytest.raises(BundleError, match=r"at 'memory://models/labels' cannot be used: '.*' cannot be read there"):
        local_bundle("memory://models/labels")
    assert [path.name for path in cache.iterdir() if not path.name.endswith(".lock")] == [copy.name]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("vocab.json", b"{}", "File 'vocab.json' has changed since the export"),
        ("bundle.json", b"{}", "is damaged"),
        ("bundle.json", {"../outside": "0" * 64}, "is damaged: a name in 'files' is '../outside'"),
        ("bundle.json", {"/etc/hostname": "0" * 64}, "is damaged: a name in 'files' is '/etc/hostname'"),
        ("bundle.json", {"engines": "0" * 64}, "is damaged: a name in 'files' is 'engines'"),
    ],
)
def test_what_is_no_bundle(bundles: Bundles, remote: Any, cache: Path, name: str, content: Any, message: str) -> None:
    if isinstance(content, dict):
        values = json.loads((bundles(CLASSIFY) / BUNDLE_FILE).read_text(encoding="utf-8"))
        content = json.dumps(values | {"files": values["files"] | content}).encode()
    remote.pipe(f"/models/labels/{name}", content)
    with pytest.raises(BundleError, match=message):
        local_bundle("memory://models/labels")
    assert not [path for path in cache.iterdir() if not path.name.endswith(".lock")]


@pytest.mark.parametrize(("address", "message"), [("nowhere://x", "fsspec cannot read it"), ("memory://x", "'bundle.js")])
def test_where_nothing_is(address: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        local_bundle(address)


def test_two_processes_at_once_and_one_that_is_killed(bundles: Bundles, tmp_path: Path, cache: Path) -> None:
    folder = Path(shutil.copytree(bundles(CLASSIFY), tmp_path / "shared"))
    log = tmp_path / "log"
    killed = start(folder, log, "vocab.json")
    assert (killed.communicate()[0], killed.returncode) == ("", -signal.SIGKILL)
    assert [path.suffix for path in cache.iterdir() if path.is_dir()] == [".part"]
    log.unlink()
    both = [start(folder, log) for _ in range(2)]
    (copy,) = {each.communicate()[0].strip() for each in both}
    assert [each.returncode for each in both] == [0, 0]
    Bundle.load(copy).check_files()
    files = list(Bundle.load(folder).files)
    assert sorted(log.read_text().split()) == sorted([*files, BUNDLE_FILE, BUNDLE_FILE])
    assert [path.name for path in cache.iterdir() if path.is_dir()] == [Path(copy).name]
