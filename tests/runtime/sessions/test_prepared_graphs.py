"""Graphs that ONNX Runtime prepared, and a cache keeps: when they are used, and that they never show in answers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.conftest import Bundles
from tests.runtime.texts import TEXTS
from xlm_runtime import BundleError, EngineError, GenerationOptions, InputError, pipeline
from xlm_runtime.bundle import file_sha256
from xlm_runtime.bundle.locks import held
from xlm_runtime.cli import main as cli
from xlm_runtime.sessions import open_session, prepared_graphs

TASK = "text-classification"
TEXT = TEXTS[0]
# with weights of this size a graph is kept where nobody asked for it
LARGE = 33 << 20

pytestmark = pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 32),
    reason="this ONNX Runtime saves no packed weights",
)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that ONNX Runtime opens."""
    files: list[Path] = []
    plain = onnxruntime.InferenceSession

    def open_file(path: str, *arguments: Any, **options: Any) -> Any:
        files.append(Path(path))
        return plain(path, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_file)
    return files


@pytest.fixture
def copy(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(TASK), tmp_path / "copy"))


@pytest.fixture
def large(copy: Path) -> Path:
    """A bundle that is kept without being asked for: beside its graph lies a large file of zeros."""
    with (copy / "model.onnx.data").open("wb") as file:
        file.truncate(LARGE)
    contents = json.loads((copy / "bundle.json").read_text())
    contents["files"]["model.onnx.data"] = file_sha256(copy / "model.onnx.data")
    (copy / "bundle.json").write_text(json.dumps(contents))
    return copy


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's graphs are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches" / "xlm-onnx" / "graphs"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def logits(folder: Path, cache: Path | None = None, threads: int = 1) -> np.ndarray:
    ids = np.arange(20, 34, dtype=np.int64).reshape(2, 7)
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids), "langs": np.zeros_like(ids)}
    return open_session(folder / "model.onnx", "cpu", threads, engine_cache=cache).run(inputs)["logits"]


def entry(cache: Path) -> Path:
    """The one folder that a cache holds, and nothing else but it."""
    (found,) = cache.iterdir()
    return found


def answers(folder: Path, task: str, **options: Any) -> str:
    """All digits of what a pipeline answers."""
    pipe = pipeline(task, folder, **options)
    if task == "text-generation":
        return repr((pipe.score(TEXTS), pipe(TEXTS[:2], options=GenerationOptions(max_new_tokens=6, num_beams=2))))
    found = pipe([f"{text} <special1>" for text in TEXTS])  # the mask token
    return repr([np.asarray(item).tolist() for item in found] if task == "feature-extraction" else found)


@pytest.mark.parametrize("name", ["feature-extraction", "fill-mask-packed", "text-generation"])
def test_answers_are_the_same_bits(name: str, bundles: Bundles, cache: Path, opened: list[Path]) -> None:
    task, folder = name.removesuffix("-packed"), bundles(name)
    expected = {threads: answers(folder, task, threads=threads, engine_cache=False) for threads in (1, 2)}
    assert answers(folder, task, threads=1, engine_cache=cache) == expected[1], "the start that prepares"
    opened.clear()
    for threads in (1, 2):
        assert answers(folder, task, threads=threads, engine_cache=cache) == expected[threads]
    assert opened == [entry(cache) / "model.onnx"] * 2, "one is for any number of threads"


@pytest.mark.skipif(sys.platform != "linux", reason="where a process lists its maps")
def test_packed_weights_are_mapped(copy: Path, cache: Path) -> None:
    logits(copy, cache)
    session = open_session(copy / "model.onnx", "cpu", 1, engine_cache=cache)
    weights = entry(cache) / "model.data"
    assert str(weights) in Path("/proc/self/maps").read_text()
    del session
    assert str(weights) not in Path("/proc/self/maps").read_text()


def damage_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x80
    path.write_bytes(bytes(content))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda folder: damage_bit(folder / "model.data"),
    "cut": lambda folder: os.truncate(folder / "model.data", 1000),
    "missing": lambda folder: (folder / "model.data").unlink(),
    "cut stamp": lambda folder: os.truncate(folder / "stamp.json", 40),
    "foreign stamp": lambda folder: (folder / "stamp.json").write_text('{"model.onnx": 1}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_made_anew(damage: str, copy: Path, cache: Path, opened: list[Path]) -> None:
    expected = logits(copy, cache)
    folder = entry(cache)
    whole = {path.name for path in folder.iterdir()}
    DAMAGES[damage](folder)
    opened.clear()
    np.testing.assert_array_equal(logits(copy, cache), expected)
    assert opened[0] == copy / "model.onnx"
    assert opened[-1] == entry(cache) / "model.onnx"
    assert {path.name for path in folder.iterdir()} == whole
    opened.clear()
    np.testing.assert_array_equal(logits(copy, cache), expected)
    assert opened == [folder / "model.onnx"]


def test_a_copy_is_used_and_known(copy: Path, cache: Path, opened: list[Path], tmp_path: Path) -> None:
    """Its files have other times and inodes: they are hashed once, and the same bundle elsewhere is the same graph."""
    logits(copy, cache)
    other = Path(shutil.copytree(cache, tmp_path / "other", copy_function=shutil.copyfile))
    before = (entry(other) / "stamp.json").read_text()
    opened.clear()
    logits(Path(shutil.copytree(copy, tmp_path / "elsewhere")), other)
    assert opened == [entry(other) / "model.onnx"]
    known = (entry(other) / "stamp.json").read_text()
    assert known != before
    logits(copy, other)
    assert (entry(other) / "stamp.json").read_text() == known


def test_what_is_stale_is_another_one(copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights under the same name, another CPU, another ONNX Runtime; one that saves nothing keeps nothing."""
    logits(copy, cache)
    contents = json.loads((copy / "bundle.json").read_text())
    damage_bit(copy / "model.onnx")
    with pytest.raises(BundleError, match="has changed since the export"):
        pipeline(TASK, copy, engine_cache=cache)(TEXT)
    contents["files"]["model.onnx"] = file_sha256(copy / "model.onnx")
    (copy / "bundle.json").write_text(json.dumps(contents))
    np.testing.assert_array_equal(logits(copy, cache), logits(copy))
    assert len(list(cache.iterdir())) == 2
    monkeypatch.setattr(prepared_graphs, "cpu_name", lambda: "another")
    logits(copy, cache)
    assert len(list(cache.iterdir())) == 3
    for version, count in (("99.1.0", 4), ("1.20.1", 4)):
        monkeypatch.setattr(onnxruntime, "__version__", version)
        logits(copy, cache)
        assert len(list(cache.iterdir())) == count


def test_damaged_weights_are_never_kept(copy: Path, cache: Path) -> None:
    damage_bit(copy / "model.onnx")
    with pytest.raises(BundleError, match=r"'model.onnx' .* has changed since the export"):
        pipeline(TASK, copy, engine_cache=cache)
    assert list(cache.iterdir()) == []


def test_one_process_makes_it(copy: Path, cache: Path, opened: list[Path]) -> None:
    expected = logits(copy, cache)
    folder = entry(cache)
    shutil.rmtree(folder)
    opened.clear()
    with held(cache / f".{folder.name}.lock"):
        np.testing.assert_array_equal(logits(copy, cache), expected)
        assert opened == [copy / "model.onnx"], "another one makes it, and nobody waits"
    logits(copy, cache)
    assert entry(cache) == folder


def test_what_a_killed_process_left_is_never_used(copy: Path, cache: Path) -> None:
    """It dies when everything is written but the last step."""
    code = (
        "import os, signal, sys; from pathlib import Path; from xlm_runtime.sessions import open_session\n"
        "Path.rename = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_session(sys.argv[1], 'cpu', 1, engine_cache=sys.argv[2])"
    )
    died = subprocess.run([sys.executable, "-c", code, str(copy / "model.onnx"), str(cache)])
    assert died.returncode == -signal.SIGKILL
    left = list(cache.iterdir())
    assert left, "a draft and a lock"
    assert all(path.name.startswith(".") for path in left)
    np.testing.assert_array_equal(logits(copy, cache), logits(copy))
    assert not entry(cache).name.startswith("."), "what was left is gone"


def test_a_cache_that_was_asked_for_and_cannot_be_used(
    copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (copy / "config.json", copy / "config.json" / "below"):
        with pytest.raises(InputError, match=rf"engine cache '{folder}' cannot be written \(.*name a folder that can"):
            pipeline(TASK, copy, engine_cache=folder)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        logits(copy, cache)
    assert list(cache.iterdir()) == []
    plain = onnxruntime.InferenceSession

    def save_nothing(path: str, options: Any, **more: Any) -> Any:
        if options.optimized_model_filepath:
            raise RuntimeError("bad stream")
        return plain(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", save_nothing)
    with pytest.raises(InputError, match=r"cannot be written \(ONNX Runtime could not save .*is the disk full"):
        logits(copy, cache)
    assert list(cache.iterdir()) == []


def test_a_graph_that_cannot_be_opened_says_so(copy: Path, cache: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="ONNX Runtime cannot load"):
        logits(copy, cache)
    assert list(cache.iterdir()) == []


def test_by_default_large_graphs_lie_in_the_users_folder(large: Path, home: Path, opened: list[Path]) -> None:
    expected = pipeline(TASK, large, engine_cache=False)(TEXT)
    assert not home.exists()
    for _ in range(2):
        assert pipeline(TASK, large)(TEXT) == expected
    assert opened[-1] == entry(home) / "model.onnx"
    assert [path.stat().st_mode & 0o777 for path in (home, entry(home))] == [0o700, 0o700]
    # once others may write there, nothing of it is trusted
    home.chmod(0o777)
    assert pipeline(TASK, large)(TEXT) == expected
    assert opened[-1] == large / "model.onnx"


def test_by_default_small_graphs_are_not_kept(bundles: Bundles, home: Path) -> None:
    pipeline(TASK, bundles(TASK))(TEXT)
    assert not home.exists()


Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize("lack", ["folder", "disk", "memory", "full"])
def test_by_default_what_cannot_be_kept_is_no_failure(
    lack: str, large: Path, home: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    if lack == "folder":
        home.parent.parent.write_text("a file")
    elif lack == "disk":
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(3 * LARGE))
    elif lack == "memory":
        monkeypatch.setattr(prepared_graphs, "available_memory", lambda: 2 * LARGE)
    else:
        monkeypatch.setattr(Path, "rename", full)
    assert pipeline(TASK, large)(TEXT)["label"]
    assert opened[-1] == large / "model.onnx"
    assert not home.is_dir() or list(home.iterdir()) == []


def test_by_default_the_least_recently_used_make_room(large: Path, home: Path) -> None:
    for age, name in enumerate(("new", "old", "oldest")):
        folder = home / f"{name}.onnxruntime"
        folder.mkdir(mode=0o700, parents=True)
        with (folder / "model.data").open("wb") as file:
            file.truncate(5 << 30)  # takes no room on the disk
        os.utime(folder, (1e9 - age, 1e9 - age))
    home.chmod(0o700)
    pipeline(TASK, large)
    assert sorted(path.name.split(".")[0] for path in home.iterdir()) == ["model", "new"]


def test_the_command_line(large: Path, home: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [TASK, str(large), TEXT, "--json"]
    assert cli.main([*arguments, "--no-engine-cache"]) == 0
    expected = capsys.readouterr().out
    assert not home.exists()
    for extra in (["--engine-cache", str(cache)], [], []):
        assert cli.main([*arguments, *extra]) == 0
        assert capsys.readouterr() == (expected, "")
    assert entry(cache).name == entry(home).name
