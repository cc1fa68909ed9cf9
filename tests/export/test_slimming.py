"""Slim bundles: the same answers from the kept graphs, nothing else in the folder, and whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.texts import TEXTS
from tests.sharing import make_once
from xlm_export import optimize, quantize, slim
from xlm_export.cli.main import main
from xlm_runtime import BundleError, InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.timings import Record, Timing
from xlm_runtime.machine import Machine

INT8, INT8_CPU, FP32_CPU = (f"model.{name}.onnx" for name in ("int8-static", "int8-static.onnxruntime-cpu",
                                                              "fp32.onnxruntime-cpu"))  # fmt: skip


@pytest.fixture
def bundle(bundles: Bundles, shared_folder: Path) -> Path:
    """With an fp32 graph, an int8 one, one of each for ONNX Runtime, and one machine's times. Not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(bundles("text-classification"), folder)
        quantize(folder, "int8-static")
        for precision in ("fp32", "int8"):
            optimize(folder, "onnxruntime-cpu", precision=precision)
        written = Bundle.load(folder)
        timings = (Timing(graph.file, written.digest(graph), "cpu", {"1x16": 1.0}) for graph in written.graphs)
        record = Record(Machine("Z80", None, 1, {}), "2026-01-01", tuple(timings))
        Bundle.update(folder, lambda now: replace_timings(now, record))

    return make_once(shared_folder / "slimming", make)


def replace_timings(bundle: Bundle, record: Record) -> Bundle:
    return replace(bundle, timings=(record.to_dict(),))


def scores(folder: Path, precision: str | None = None) -> np.ndarray:
    answers = pipeline("text-classification", folder, precision=precision)(TEXTS)
    return np.array([answer["score"] for answer in answers])


def test_only_what_the_kept_graphs_need(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "slim"
    made = slim(bundle, out, ["int8"])
    assert [graph.file for graph in made.bundle.graphs] == [INT8, INT8_CPU]
    assert [graph.file for graph in made.left_out] == ["model.onnx", FP32_CPU]
    written = Bundle.load(out)
    written.check_files()
    assert written.to_dict() == made.bundle.to_dict()
    assert {path.name for path in out.iterdir()} == {*written.files, "bundle.json"}
    assert {*written.files} == {*Bundle.load(bundle).files} - {"model.onnx", FP32_CPU}
    assert [*written.verification["quantized"]] == [INT8]
    assert [*written.verification["optimized"]] == [INT8_CPU]
    assert written.verification["status"] == "passed"
    assert [item["graph"] for item in written.timings[0]["timings"]] == [INT8, INT8_CPU]
    np.testing.assert_array_equal(scores(out), scores(bundle, "int8"))
    with pytest.raises(InputError, match="no portable graph in fp32; export the checkpoint"):
        quantize(out, "int8-dynamic")


def test_a_graph_gets_weights_of_one_that_stays_behind(bundle: Path, tmp_path: Path) -> None:
    made = slim(bundle, tmp_path / "slim", [FP32_CPU]).bundle
    assert (made.graphs[0].file, made.graphs[0].weights_in) == (FP32_CPU, ())
    assert "model.onnx" not in made.files
    assert made.graphs[0].target == "onnxruntime-cpu"
    np.testing.assert_array_equal(scores(tmp_path / "slim"), scores(bundle))
    both = slim(bundle, tmp_path / "both", [FP32_CPU, "model.onnx"]).bundle
    assert both.graph_of_file(FP32_CPU).weights_in == ("model.onnx",)
    assert both.graphs[0].file == "model.onnx", "the default stays the default"


def test_the_default_is_the_first_that_is_kept(bundle: Path, tmp_path: Path) -> None:
    assert slim(bundle, tmp_path / "slim", [INT8_CPU, INT8]).bundle.graphs[0].file == INT8_CPU
    assert pipeline("text-classification", tmp_path / "slim").model.graph.file == INT8_CPU


def test_in_place_of_the_bundle_itself(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is already there; use --force"):
        slim(folder, folder, ["int8"])
    slim(folder, folder, ["int8"], force=True)
    assert not (folder / "model.onnx").exists()
    assert (folder / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["int4"], r"no graph 'int4' to keep; it has fp32 \(model.onnx\), int8-static \(model.int8-static.onnx\)"),
        ([], "No graph to keep was named"),
    ],
)
def test_refused(keep: list[str], message: str, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        slim(bundle, tmp_path / "slim", keep)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_was_changed(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with (folder / INT8).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    with pytest.raises(BundleError, match="has changed since the export"):
        slim(folder, tmp_path / "slim", ["int8"])
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_interruption_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    def interrupt(step: str, left: int) -> None:
        if step == "copy the graphs":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slim(bundle, tmp_path / "slim", ["int8"], progress=interrupt)
    assert [*tmp_path.iterdir()] == []


def test_command_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "slim"
    assert main(["slim", str(bundle), str(out), "--keep", f"{INT8},{INT8_CPU}"]) == 0
    said = capsys.readouterr().out
    assert f"{out}: {INT8}, {INT8_CPU}; " in said
    assert " MB in place of " in said
    assert f"left out: model.onnx, {FP32_CPU}" in said
    assert "without a precision pipelines take int8-static" in said
    assert json.loads((out / "bundle.json").read_text())["graphs"][0]["recipe"] == "int8-static"
    assert main(["slim", str(bundle), str(out), "--keep", "int8"]) == 1
    assert "is already there; use --force" in capsys.readouterr().err
