"""Compiled graphs that OpenVINO keeps: when they are used, and that damage or another bundle never shows in answers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from xlm_runtime import BundleError, EngineError, InputError, pipeline
from xlm_runtime.bundle import file_sha256
from xlm_runtime.cli import main as cli
from xlm_runtime.sessions import open_session

openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")

TASK = "text-classification"
TEXT = "Der alte Leuchtturm steht am Meer."


@pytest.fixture
def copy(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(TASK), tmp_path / "copy"))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "new" / "cache"


def inputs() -> dict[str, np.ndarray]:
    ids = np.arange(20, 34, dtype=np.int64).reshape(2, 7)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "langs": np.zeros_like(ids)}


def logits(folder: Path, cache: Path | None = None, threads: int = 1) -> tuple[bool, np.ndarray]:
    """Whether the compiled graph was imported, and what it computes."""
    session: Any = open_session(folder / "model.onnx", "openvino", threads, engine_cache=cache)
    return session.imported, session.run(inputs())["logits"]


def replace_weights(folder: Path) -> None:
    """Other weights in a file of the same name, size and time: the sign of many numbers is turned.

    Weights stand at the file's end, behind the nodes.
    """
    path = folder / "model.onnx"
    before = path.stat()
    content = bytearray(path.read_bytes())
    start, stop = 3 * len(content) // 4, 9 * len(content) // 10
    # of float32 numbers around 0.01 the last byte is 0x3c or 0xbc, wherever a matrix begins
    exponents = [sum((content[i] & 0x7F) in (0x3B, 0x3C, 0x3D) for i in range(start + k, stop, 4)) for k in range(4)]
    for i in range(start + int(np.argmax(exponents)), stop, 4):
        if content[i] & 0x7F in (0x3B, 0x3C, 0x3D):
            content[i] ^= 0x80
    path.write_bytes(bytes(content))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size


def name_weights(folder: Path) -> None:
    """The table of contents as of a bundle with the weights that lie there."""
    contents = json.loads((folder / "bundle.json").read_text())
    contents["files"]["model.onnx"] = file_sha256(folder / "model.onnx")
    (folder / "bundle.json").write_text(json.dumps(contents))


def test_nothing_is_kept_unless_it_is_asked_for(copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    pipeline(TASK, copy, "openvino")(TEXT)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before


def kept_result(method: Callable[..., Any], name: str, kept: dict[str, Any]) -> Callable[..., Any]:
    """The method, and what it returns under its name in `kept`."""

    def call(*arguments: Any, **options: Any) -> Any:
        kept[name] = method(*arguments, **options)
        return kept[name]

    return call


def test_the_second_start_imports(copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imported, expected = logits(copy, cache)
    assert not imported
    (file,) = cache.iterdir()
    assert file.name.startswith("model.")
    assert file.suffix == ".openvino"
    written = file.stat().st_mtime_ns
    imported, found = logits(copy, cache)
    assert imported
    np.testing.assert_array_equal(found, expected)
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]
    compiled: dict[str, Any] = {}
    for method in ("import_model", "compile_model"):
        monkeypatch.setattr(openvino.Core, method, kept_result(getattr(openvino.Core, method), method, compiled))
    open_session(copy / "model.onnx", "openvino", 1, engine_cache=cache)
    open_session(copy / "model.onnx", "openvino", 1)
    assert list(compiled) == ["import_model", "compile_model"]
    for name in ("INFERENCE_NUM_THREADS", "INFERENCE_PRECISION_HINT", "PERFORMANCE_HINT"):
        assert len({str(model.get_property(name)) for model in compiled.values()}) == 1, name
    # the same bundle elsewhere is the same graph; another number of threads is another one
    assert logits(Path(shutil.copytree(copy, copy.parent / "elsewhere")), cache)[0]
    assert not logits(copy, cache, threads=2)[0]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("damage", ["flipped", "kind", "truncated", "empty", "other"])
def test_a_damaged_file_is_made_anew(copy: Path, cache: Path, damage: str) -> None:
    _, expected = logits(copy, cache)
    (file,) = cache.iterdir()
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 0x80  # OpenVINO itself takes this one for another weight
    body = b"f32\nno model"
    damaged = {
        "flipped": bytes(flipped),
        "kind": content[:32] + b"b" + content[33:],
        "truncated": content[: len(content) // 2],
        "empty": b"",
        "other": hashlib.sha256(body).digest() + body,  # whole, but nothing that OpenVINO takes
    }
    file.write_bytes(damaged[damage])
    imported, found = logits(copy, cache)
    assert not imported
    np.testing.assert_array_equal(found, expected)
    assert logits(copy, cache)[0], "it was made anew"


def test_a_bundle_replaced_in_place_is_another_one(copy: Path, cache: Path) -> None:
    _, before = logits(copy, cache)
    replace_weights(copy)
    name_weights(copy)
    _, expected = logits(copy)
    assert np.abs(expected - before).max() > 1e-3, "the weights are others"
    imported, found = logits(copy, cache)
    assert not imported
    np.testing.assert_array_equal(found, expected)
    imported, found = logits(copy, cache)
    assert imported
    np.testing.assert_array_equal(found, expected)


def test_damaged_weights_are_never_kept(copy: Path, cache: Path) -> None:
    replace_weights(copy)  # bundle.json still names the former ones
    with pytest.raises(BundleError, match=r"'model.onnx' .* has changed since the export"):
        pipeline(TASK, copy, "openvino", engine_cache=cache)
    assert not cache.exists()


def test_damaged_weights_are_found_behind_a_cached_graph(copy: Path, cache: Path) -> None:
    pipeline(TASK, copy, "openvino", engine_cache=cache)
    replace_weights(copy)
    with pytest.raises(BundleError, match=r"'model.onnx' .* has changed since the export"):
        pipeline(TASK, copy, "openvino", engine_cache=cache)(TEXT)


def test_a_cache_that_cannot_be_used(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=rf"engine cache '{folder}' cannot be written \(.*name a folder that can"):
            pipeline(TASK, copy, "openvino", engine_cache=folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_write_leaves_nothing(copy: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        logits(copy, cache)
    assert list(cache.iterdir()) == []


def test_a_graph_outside_a_bundle(copy: Path, cache: Path, tmp_path: Path) -> None:
    shutil.copy(copy / "model.onnx", tmp_path / "model.onnx")
    with pytest.raises(InputError, match=r"for graphs of a bundle, but no bundle.json lies beside"):
        open_session(tmp_path / "model.onnx", "openvino", engine_cache=cache)
    shutil.copy(copy / "model.onnx", copy / "other.onnx")
    with pytest.raises(InputError, match=r"no graph 'other.onnx'; it has model.onnx"):
        open_session(copy / "other.onnx", "openvino", engine_cache=cache)


def test_a_provider_that_builds_nothing(copy: Path, cache: Path) -> None:
    with pytest.raises(InputError, match=r"provider 'cuda' builds nothing .* one of cpu, openvino, tensorrt"):
        pipeline(TASK, copy, "cuda", engine_cache=cache)


def test_an_engine_error_is_still_one(copy: Path, cache: Path) -> None:
    (copy / "model.onnx").write_bytes(b"no graph")
    name_weights(copy)
    with pytest.raises(EngineError, match="OpenVINO cannot load"):
        logits(copy, cache)
    assert not cache.exists()


def test_the_command_line(copy: Path, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [TASK, str(copy), TEXT, "--json", "--provider", "openvino"]
    assert cli.main(arguments) == 0
    expected = capsys.readouterr().out
    for _ in range(2):
        assert cli.main([*arguments, "--engine-cache", str(cache)]) == 0
        assert capsys.readouterr() == (expected, "")
    assert len(list(cache.iterdir())) == 1
    assert cli.main([*arguments, "--engine-cache", str(copy / "config.json")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "cannot be written (File exists)" in err
