"""The table of recipes: what is said of them on a CPU, and that a row is all that a new one takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from tests.conftest import Bundles
from xlm_export import optimize, quantize
from xlm_export.cli.main import main
from xlm_export.onnx_graph.constants import array
from xlm_export.onnx_graph.file import open_model
from xlm_export.quantization import RECIPES, Job, Recipe
from xlm_export.quantization.products import find_products
from xlm_runtime import InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.machine import CpuFeatures

# CPU → what it has, the recipes that say something there
CPUS = {
    "Haswell": ("x86", {"avx2"}, {"int8-dynamic", "int8-static", "int4-weights", "bf16"}),
    "Cascade Lake": ("x86", {"avx2", "avx512", "vnni"}, {"bf16"}),
    "Sapphire Rapids": ("x86", {"avx2", "avx512", "vnni", "avx512_bf16", "amx_int8", "amx_bf16"}, set()),
    "Raspberry Pi 4": ("arm", set(), {"int8-dynamic", "int8-static", "int4-weights", "bf16"}),
    "Graviton 2": ("arm", {"arm_dot"}, {"bf16"}),
    "Graviton 3": ("arm", {"arm_dot", "arm_i8mm", "arm_bf16"}, set()),
}


@pytest.mark.parametrize("name", CPUS)
def test_advice(name: str) -> None:
    architecture, found, expected = CPUS[name]
    cpu = CpuFeatures(architecture, frozenset(found))
    assert {name for name, recipe in RECIPES.items() if recipe.advice(cpu)} == expected
    assert not any(recipe.advice(CpuFeatures("x86", frozenset(), known=False)) for recipe in RECIPES.values())


def test_saturation_is_explained() -> None:
    note = RECIPES["int8-static"].advice(CpuFeatures("x86", frozenset({"avx2"})))
    assert note is not None
    assert "has avx2, no VNNI" in note
    assert "7 bits" in note


def round_to_12_bits(model: onnx_ir.Model, job: Job) -> onnx_ir.Model:
    for product in find_products(model):
        if product.group in job.parts:
            values = array(product.weight)
            step = np.abs(values).max() / 2047
            product.weight.const_value = onnx_ir.tensor(np.rint(values / step) * step, name=product.weight.name)
    return model


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe that no code knows of but the table."""
    recipe = Recipe("weights rounded to 12 bits", "int12", None, "cpu", 0.01, round_to_12_bits)
    monkeypatch.setitem(RECIPES, "toy-12-bits", recipe)
    return recipe


@pytest.mark.parametrize("name", ["text-classification", "question-answering-packed", "text-generation"])
def test_a_new_recipe_is_a_row(name: str, toy: Recipe, bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    made = quantize(folder, "toy-12-bits", keep=["head"])
    layout = ".packed" if name.endswith("packed") else ""
    assert made.graph.file == f"model{layout}.toy-12-bits.onnx"
    assert (made.graph.recipe, made.graph.precision, made.graph.target) == ("toy-12-bits", "int12", None)
    assert 0 < made.report["divergence"] < toy.max_divergence
    assert made.report["in_fp32"] == ["head"]
    weights = {str(product.weight.name): product for product in find_products(open_model(folder / made.graph.file))}
    for product in find_products(open_model(folder / "model.onnx")):
        same = np.array_equal(array(weights[str(product.weight.name)].weight), array(product.weight))
        assert same == (product.group == "head")
    quantize(folder, "int8-dynamic")
    assert pipeline(Bundle.load(folder).task, folder, precision="toy-12-bits").model.graph == made.graph
    assert optimize(folder, "onnxruntime-cpu", precision="toy-12-bits").report.status == "passed"
    with pytest.raises(InputError, match="toy-12-bits has no ranges from calibration"):
        quantize(folder, "toy-12-bits", percentile=99, force=True)
    with pytest.raises(InputError, match="Unknown part 'embeddings' to keep"):
        quantize(folder, "toy-12-bits", keep=["embeddings"], force=True)
    Bundle.load(folder).check_files()


def test_the_command_line_reads_the_table(
    toy: Recipe, bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    with pytest.raises(SystemExit, match="0"):
        main(["quantize", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, recipe in RECIPES.items():
        assert f"{name}: {recipe.summary}" in said
    assert main(["quantize", str(folder), "--recipe", "toy-12-bits", "--per-layer"]) == 0
    assert "model.toy-12-bits.onnx" in capsys.readouterr().out
    assert main(["quantize", str(folder), "--recipe", "toy-11-bits"]) == 1
    assert "expected one of int8-dynamic, int8-static, int4-weights, bf16, toy-12-bits" in capsys.readouterr().err
