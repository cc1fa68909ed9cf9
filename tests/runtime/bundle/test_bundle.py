"""Which of a bundle's graphs a provider gets, and how an entry is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import Bundles
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.tasks import TensorSpec

PORTABLE = Graph(
    "model.onnx",
    "fp32",
    "padded",
    18,
    (TensorSpec("input_ids", "int64", ("batch", "sequence")),),
    (TensorSpec("logits", "float", ("batch", "num_labels")),),
)
FOR_CPU = replace(PORTABLE, file="cpu.onnx", target="onnxruntime-cpu", weights_in=("model.onnx",))
FOR_CUDA = replace(PORTABLE, file="cuda.onnx", target="onnxruntime-cuda")
INT8 = replace(PORTABLE, file="int8.onnx", precision="int8")
INT4 = replace(PORTABLE, file="int4.onnx", precision="int4", target="onnxruntime-cpu")


@pytest.fixture
def bundle(bundles: Bundles) -> Bundle:
    files = dict.fromkeys(("model.onnx", "model.onnx.data", "cpu.onnx", "cuda.onnx", "int8.onnx", "int4.onnx"), "")
    return replace(
        Bundle.load(bundles("text-classification")), graphs=(PORTABLE, FOR_CPU, FOR_CUDA, INT8, INT4), files=files
    )


@pytest.mark.parametrize(
    ("precision", "provider", "file"),
    [
        (None, None, "model.onnx"),
        (None, "cpu", "cpu.onnx"),
        (None, "cuda", "cuda.onnx"),
        (None, "openvino", "model.onnx"),
        ("fp32", "cpu", "cpu.onnx"),
        ("int8", "cpu", "int8.onnx"),
        ("int8", "openvino", "int8.onnx"),
        ("int4", "cpu", "int4.onnx"),
        ("int4", None, "int4.onnx"),
    ],
)
def test_a_provider_gets_its_own_graph_or_a_portable_one(
    bundle: Bundle, precision: str | None, provider: str | None, file: str
) -> None:
    assert bundle.graph(precision, provider).file == file


def test_graphs_of_other_engines_are_never_taken(bundle: Bundle) -> None:
    with pytest.raises(
        InputError, match=r"no graph in precision 'int4' for provider 'openvino'; it has fp32, fp32 \(on"
    ):
        bundle.graph("int4", "openvino")
    with pytest.raises(InputError, match="no graph in precision 'fp8'; it has"):
        bundle.graph("fp8", "cpu")
    alone = replace(bundle, graphs=(PORTABLE, INT4))
    assert alone.graph(None, "cpu").file == "model.onnx", "the default is the first graph's precision"


def test_files_of_a_graph(bundle: Bundle) -> None:
    assert bundle.files_of(FOR_CPU) == ["model.onnx", "model.onnx.data", "cpu.onnx"]
    assert bundle.files_of(INT8) == ["int8.onnx"]
    assert bundle.files_of(replace(INT8, file="absent.onnx")) == ["absent.onnx"]


@pytest.mark.parametrize("graph", [PORTABLE, FOR_CPU, FOR_CUDA])
def test_entries_are_read_as_written(graph: Graph) -> None:
    assert Graph.from_dict(graph.to_dict()) == graph


def test_entries_of_older_bundles_are_portable() -> None:
    values = PORTABLE.to_dict()
    assert "engine" not in values
    assert "weights_in" not in values, "a bundle of portable graphs reads as before"
    assert Graph.from_dict(values).target is None
