"""What a bundle becomes in each backend: the configuration's text, the files, and what is not served."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import Bundles
from xlm_export.engines.profiles import preset_profiles
from xlm_export.triton.models import BACKENDS, ServedModel
from xlm_export.triton.options import ServingOptions
from xlm_export.triton.pbtxt import Constant, text_of
from xlm_export.triton.tensors import read_tensors
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.engine_stamp import EngineStamp
from xlm_runtime.errors import BundleError, EngineError, InputError


def made(folder: Path | Bundle, backend: str, **options: Any) -> ServedModel:
    bundle = folder if isinstance(folder, Bundle) else Bundle.load(folder)
    return BACKENDS[backend].make(bundle, "model", ServingOptions(**options))


def squeezed(text: str) -> str:
    """A configuration in one line."""
    return re.sub(r"\s+", " ", text).strip()


def test_text_format() -> None:
    message = {"a": 'say "hi"\\', "b": Constant("KIND"), "c": [1, -1], "d": [], "e": [{"f": True}, {"f": 2}], "g": {}}
    assert squeezed(text_of(message)) == 'a: "say \\"hi\\"\\\\" b: KIND c: [1, -1] e { f: true } e { f: 2 } g { }'


def test_python(bundles: Bundles) -> None:
    folder = bundles("text-classification")
    model = made(folder, "python", task="zero-shot-classification", instances=2, max_batch=8, max_queue_delay_us=500)
    assert squeezed(model.config) == (
        'name: "model" backend: "python" max_batch_size: 8 '
        'input { name: "text" data_type: TYPE_STRING dims: [1] } '
        'output { name: "answer" data_type: TYPE_STRING dims: [1] } '
        "dynamic_batching { max_queue_delay_microseconds: 500 } "
        "instance_group { count: 2 kind: KIND_CPU } "
        'parameters { key: "task" value { string_value: "zero-shot-classification" } } '
        'parameters { key: "provider" value { string_value: "cpu" } }'
    )
    assert "from xlm_runtime.triton.model import TritonPythonModel" in model.texts["model.py"]
    assert {f"bundle/{name}" for name in Bundle.load(folder).files} == set(model.files)
    assert 'kind: KIND_AUTO } parameters { key: "task"' in squeezed(made(folder, "python", provider="auto").config)
    assert "kind: KIND_GPU }" in squeezed(made(folder, "python", provider="cuda").config)


def test_graph_whose_first_axis_is_the_batch(bundles: Bundles) -> None:
    model = made(bundles("token-classification"), "onnxruntime", threads=3, instances=2, max_batch=16)
    names = ("input_ids", "attention_mask", "langs")
    inputs = " ".join(f'input {{ name: "{name}" data_type: TYPE_INT64 dims: [-1] }}' for name in names)
    assert squeezed(model.config) == (
        f'name: "model" backend: "onnxruntime" max_batch_size: 16 {inputs} '
        'output { name: "logits" data_type: TYPE_FP32 dims: [-1, 5] } '
        'default_model_filename: "model.onnx" '
        "dynamic_batching { max_queue_delay_microseconds: 0 } "
        "instance_group { count: 2 kind: KIND_CPU } "
        'parameters { key: "intra_op_thread_count" value { string_value: "3" } }'
    )
    assert list(model.files) == ["model.onnx"]
    on_gpu = made(bundles("token-classification"), "onnxruntime", provider="cuda", threads=3)
    assert squeezed(on_gpu.config).endswith("instance_group { count: 1 kind: KIND_GPU }")


def test_types(tmp_path: Path) -> None:
    def graph(kind: int) -> Path:
        values = [onnx.helper.make_tensor_value_info(name, kind, ["batch", "sequence", 4]) for name in "xy"]
        node = onnx.helper.make_node("Identity", ["x"], ["y"])
        made = onnx.helper.make_graph([node], "g", values[:1], values[1:])
        onnx.save(onnx.helper.make_model(made), tmp_path / "g.onnx")
        return tmp_path / "g.onnx"

    kinds = onnx.TensorProto
    for kind, name in ((kinds.FLOAT16, "TYPE_FP16"), (kinds.BFLOAT16, "TYPE_BF16"), (kinds.INT32, "TYPE_INT32")):
        (tensor,) = read_tensors(graph(kind)).outputs
        assert tensor.declared(batched=True) == {"name": "y", "data_type": name, "dims": [-1, 4]}
        assert tensor.declared(batched=False)["dims"] == [-1, -1, 4]
    with pytest.raises(BundleError, match="is of the type STRING, which is not served"):
        read_tensors(graph(kinds.STRING))


def test_one_number_a_row_is_served_as_a_column(bundles: Bundles) -> None:
    config = squeezed(made(bundles("question-answering"), "onnxruntime").config)
    assert 'input { name: "cls_index" data_type: TYPE_INT64 dims: [1] reshape { } }' in config
    assert 'output { name: "cls_logits" data_type: TYPE_FP32 dims: [1] reshape { } }' in config
    assert 'output { name: "end_top_index" data_type: TYPE_INT64 dims: [25] }' in config


@pytest.mark.parametrize("name", ["fill-mask", "text-generation-bidirectional"])
def test_a_flat_axis_of_positions_is_not_batched(bundles: Bundles, name: str) -> None:
    model = made(bundles(name), "onnxruntime")
    config = squeezed(model.config)
    assert "max_batch_size: 0" in config
    assert "dynamic_batching" not in config
    assert 'input { name: "input_ids" data_type: TYPE_INT64 dims: [-1, -1] }' in config
    assert 'input { name: "logit_positions" data_type: TYPE_INT64 dims: [-1] }' in config
    assert "not batched by Triton, since 'logit_positions' has no batch axis" in model.note


@pytest.mark.parametrize(
    ("name", "backend", "options", "message"),
    [
        ("fill-mask", "python", {"task": "text-generation"}, "does not answer 'text-generation'; expected fill-mask."),
        ("fill-mask", "python", {"precision": "int8"}, "has no graph in precision 'int8'"),
        ("fill-mask-packed", "python", {"provider": "tensorrt-ep"}, "does not take the graph 'model.onnx' (fp32"),
        ("fill-mask-packed", "onnxruntime", {}, "has no padded graph in precision 'fp32' for ONNX Runtime on the CPU"),
        ("fill-mask", "onnxruntime", {"precision": "fp16"}, "has no padded graph in precision 'fp16'"),
        ("text-generation", "onnxruntime", {}, "keys and values of every token, which would go through Triton with "),
        ("fill-mask", "tensorrt", {}, "has none. Build one on a machine with the GPU: xlm-export engine "),
    ],
)  # fmt: skip
def test_what_is_not_served(bundles: Bundles, name: str, backend: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        made(bundles(name), backend, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"instances": 0}, "instances is 0; expected a whole number from 1 to"),
        ({"max_batch": 2**31}, "max_batch is 2147483648; expected a whole number from 1 to"),
        ({"max_queue_delay_us": -1}, "max_queue_delay_us is -1; expected a whole number from 0 to"),
        ({"threads": 0}, "threads is 0; expected a positive number"),
        ({"provider": "gpu"}, "Unknown provider 'gpu'; expected one of cpu, "),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ServingOptions(**options)


def with_engines(folder: Path, *flavors: str) -> Bundle:
    """A bundle with an engine of each flavour, "small0" and so on, whose plan nothing can load."""
    bundle = Bundle.load(folder)
    (folder / "engines").mkdir()
    graph = bundle.graph()
    for number, flavor in enumerate(flavors):
        stamp = EngineStamp(
            flavor=flavor,
            version="10.13",
            gpu_archs=("sm90",),
            precision=graph.precision,
            profiles=preset_profiles("default", graph, bundle.config),
            graph=graph.file,
            sources={name: bundle.files[name] for name in bundle.files_of(graph)},
            plan=f"engines/small{number}.plan",
            plan_sha256=hashlib.sha256(b"a plan").hexdigest(),
            inputs=graph.inputs,
            outputs=graph.outputs,
        )
        (folder / stamp.plan).write_bytes(b"a plan")
        stamp.write(folder / "engines" / f"small{number}.json")
    return bundle


def test_engine(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    bundle = with_engines(folder, "tensorrt-rtx", "tensorrt", "tensorrt")
    with pytest.raises(InputError, match="has the engines small1, small2; choose one by --engine"):
        made(bundle, "tensorrt")
    with pytest.raises(
        InputError, match=r"has small0 \(tensorrt-rtx, fp32\), .* Build one on a machine with the GPU: "
    ):
        made(bundle, "tensorrt", engine="small0")
    model = made(bundle, "tensorrt", engine="small2", max_batch=64)
    config = squeezed(model.config)
    profiles = len(preset_profiles("default", bundle.graph(), bundle.config))
    assert (
        'backend: "tensorrt" max_batch_size: 32 input { name: "input_ids" data_type: TYPE_INT64 dims: [-1] }' in config
    )
    assert "dynamic_batching { preferred_batch_size: [8, 32] max_queue_delay_microseconds: 0 }" in config
    listed = ", ".join(f'"{number}"' for number in range(profiles))
    assert f"instance_group {{ count: 1 kind: KIND_GPU profile: [{listed}] }}" in config
    assert model.files == {"model.plan": folder / "engines" / "small2.plan"}
    assert "for TensorRT 10.13 on sm90" in model.note
    answering = made(bundle, "python", provider="tensorrt", engine="small2")
    assert "bundle/engines/small2.plan" in answering.files
    assert 'key: "engine" value { string_value: "small2" }' in squeezed(answering.config)
    with pytest.raises(EngineError, match=r"was built from another 'model\.onnx'"):
        made(replace(bundle, files={**bundle.files, "model.onnx": "0" * 64}), "tensorrt", engine="small2")
