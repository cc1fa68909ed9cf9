"""Quantised graphs in a bundle for text generation."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import onnx
import pytest

from tests.conftest import Bundles
from xlm_export import VerificationError, quantization, verify
from xlm_export.cli import main
from xlm_export.quantization import RECIPES, quantize
from xlm_runtime import GenerationOptions, InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.sessions import open_session

OPTIONS = GenerationOptions(max_new_tokens=12, return_scores=True)


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles("text-generation"), tmp_path / "bundle"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_second_graph_in_the_same_bundle(bundle: Path, recipe: str) -> None:
    precision = RECIPES[recipe].precision
    written = quantize(bundle, recipe)
    assert [graph.precision for graph in Bundle.load(bundle).graphs] == ["fp32", precision]
    Bundle.load(bundle).check_files()
    assert set(written.files) == {path.name for path in bundle.iterdir()} - {"bundle.json"}
    report = Bundle.load(bundle).verification
    assert report["status"] == report["quantized"][precision]["status"] == "passed"
    assert 0 < report["quantized"][precision]["logits"]["relative"] < RECIPES[recipe].relative_error
    session = open_session(bundle / f"model.{precision}.onnx")
    assert session.input_names == tuple(spec.name for spec in written.graph(precision).inputs)
    assert session.output_names == tuple(spec.name for spec in written.graph(precision).outputs)
    kinds = {node.op_type for node in onnx.load(bundle / f"model.{precision}.onnx").graph.node}
    assert ("MatMulInteger" if precision == "int8" else "MatMulNBits") in kinds
    assert "Gemm" not in kinds
    answer = pipeline("text-generation", bundle, precision=precision)("The old lighthouse", OPTIONS)
    assert len(answer["ids"]) == len(answer["token_log_probs"]) > 0


def test_int8_stays_close_to_fp32(bundle: Path) -> None:
    quantize(bundle, "int8-dynamic")
    fp32, int8 = (pipeline("text-generation", bundle, precision=name) for name in ("fp32", "int8"))
    text = "In winter only two ships go to the island, and both are almost empty."
    assert int8.score(text)["log_likelihood"] == pytest.approx(fp32.score(text)["log_likelihood"], rel=0.05)


def test_a_graph_that_is_there_is_kept_without_force(bundle: Path) -> None:
    quantize(bundle, "int8-dynamic")
    with pytest.raises(InputError, match="has a graph in int8 already; use --force"):
        quantize(bundle, "int8-dynamic")
    quantize(bundle, "int8-dynamic", force=True)
    quantize(bundle, "int4-weights")
    assert [graph.precision for graph in Bundle.load(bundle).graphs] == ["fp32", "int8", "int4"]
    Bundle.load(bundle).check_files()


def test_verification_keeps_the_agreement(bundle: Path, bundles: Bundles) -> None:
    quantize(bundle, "int8-dynamic")
    verify(bundle, bundles("text-generation").parent / "checkpoints" / "text-generation")
    assert Bundle.load(bundle).verification["quantized"]["int8"]["status"] == "passed"


def test_too_much_loss_leaves_the_bundle_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    strict = quantization.Recipe("int8", quantization.int8_dynamic, relative_error=1e-9, argmax_agreement=1.0)
    monkeypatch.setitem(RECIPES, "int8-dynamic", strict)
    with pytest.raises(VerificationError, match="was not added"):
        quantize(bundle, "int8-dynamic")
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_refused(bundle: Path, bundles: Bundles) -> None:
    with pytest.raises(InputError, match="Unknown recipe 'int2'; expected one of int8-dynamic, int4-weights"):
        quantize(bundle, "int2")
    with pytest.raises(InputError, match=r"\(text-generation\) has no graph with a cache"):
        quantize(bundles("text-generation-bidirectional"), "int8-dynamic")


def test_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic"]) == 0
    assert "model.int8.onnx" in capsys.readouterr().out
    assert json.loads((bundle / "bundle.json").read_text())["graphs"][1]["precision"] == "int8"
    assert main(["quantize", str(bundle), "--recipe", "int9"]) == 1
    assert "Unknown recipe" in capsys.readouterr().err
