"""Where an ONNX file's weights lie, and that a bundle's graph reads its own files alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Bundles
from xlm_runtime import BundleError, pipeline
from xlm_runtime.bundle import BUNDLE_FILE, file_sha256
from xlm_runtime.bundle.onnx_file import external_locations

onnx = pytest.importorskip("onnx", reason="the onnx package is not installed")


def outside(location: str) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    tensor.external_data.add(key="offset", value="0")
    return tensor


def test_locations_wherever_tensors_stand(tmp_path: Path) -> None:
    inner = onnx.helper.make_graph([], "inner", [], [], initializer=[outside("d")])
    nodes = [
        onnx.helper.make_node("Constant", [], ["c"], value=outside("b")),
        onnx.helper.make_node("If", ["c"], ["x"], then_branch=inner, else_branch=inner),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], initializer=[outside("a"), outside("../e")])
    model = onnx.helper.make_model(graph)
    model.functions.append(
        onnx.helper.make_function(
            "f", "F", [], [], [onnx.helper.make_node("Constant", [], ["c"], value=outside("c"))], []
        )
    )
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    assert external_locations(tmp_path / "model.onnx") == {"a", "b", "c", "d", "../e"}


def test_a_tiny_graph_has_none(bundles: Bundles) -> None:
    assert external_locations(bundles("text-generation") / "model.onnx") == set()


@pytest.mark.parametrize("content", [b"\x3a\xff\xff", b"\x0f", b"\x3a\x7f\x00", b"\xff" * 20])
def test_what_is_no_message(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"it holds a field|its field at byte|it ends within a number"):
        external_locations(tmp_path / "model.onnx")


def test_weights_outside_the_bundle(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "copy"))
    model = onnx.load(folder / "model.onnx")
    largest = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (tmp_path / "secret").write_bytes(largest.raw_data)
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    largest.external_data.add(key="location", value="../secret")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    contents = json.loads((folder / BUNDLE_FILE).read_text())
    contents["files"]["model.onnx"] = file_sha256(folder / "model.onnx")
    (folder / BUNDLE_FILE).write_text(json.dumps(contents))
    with pytest.raises(BundleError, match=r"reads weights from '\.\./secret', which is none of its files"):
        pipeline("text-classification", folder)
