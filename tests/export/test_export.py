"""Exports of every head: shapes, precisions, options, the bundle's contents and its atomic writing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.make_checkpoint import make_checkpoint
from tests.tolerances import RUNTIME_FP32
from xlm_export import VerificationError, export, load_checkpoint, verify
from xlm_export.families.xlm.family import XLM
from xlm_export.tracing.graph import ExportGraph
from xlm_export.verification.report import TOLERANCES, OutputError
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import TASKS, find_task

# (batch, sequence): other sizes than the traced ones, 1 and the longest among them
SHAPES = [(1, 1), (1, 64), (5, 3), (2, 33)]


def random_inputs(graph: ExportGraph, batch: int, sequence: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    sizes = {"batch": batch, "sequence": sequence, "num_choices": 1 + batch % 3, "kept": min(sequence, 4)}
    config = graph.model.config
    highest = {
        "input_ids": config.vocab_size,
        "langs": config.n_langs,
        "token_type_ids": 5,
        "position_ids": config.max_position_embeddings,
        "logit_positions": batch * sequence,
        "cls_index": sequence,
    }
    inputs = {}
    for spec in graph.inputs:
        shape = [sizes.get(axis, config.emb_dim) for axis in spec.axes]
        if spec.name == "attention_mask":
            value = np.arange(sequence) < rng.integers(1, sequence + 1, (*shape[:-1], 1))
        elif spec.name == "p_mask":
            value = rng.random(shape) < 0.3
        elif spec.name == "inputs_embeds":
            value = rng.normal(size=shape)
        else:
            value = rng.integers(0, highest[spec.name], shape)
        inputs[spec.name] = value.astype(np.float32 if spec.dtype.startswith("float") else np.int64)
    return inputs


def assert_graph_equals_torch(bundle: Bundle, graph: ExportGraph) -> None:
    session = open_session(bundle.folder / bundle.graph().file)
    assert session.input_names == tuple(spec.name for spec in graph.inputs)
    rng = np.random.default_rng(0)
    for batch, sequence in SHAPES:
        inputs = random_inputs(graph, batch, sequence, rng)
        got = session.run(inputs)
        with torch.inference_mode():
            want = graph({name: torch.from_numpy(value) for name, value in inputs.items()})
        for spec, tensor in zip(graph.outputs, want, strict=True):
            if spec.name.endswith("_index") or spec.name == "end_top_log_probs":
                continue  # candidates of probability 0 may come in any order; verification compares the beam
            assert got[spec.name].shape == tuple(tensor.shape)
            np.testing.assert_allclose(
                got[spec.name], tensor.numpy(), rtol=RUNTIME_FP32, atol=RUNTIME_FP32, err_msg=f"{spec.name} {batch}"
            )


@pytest.mark.parametrize("architecture", XLM.architectures)
def test_every_head(architecture: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    bundle = export(checkpoint, tmp_path / "bundle", hidden_states=True, attentions=True)
    assert bundle.verification["status"] == "passed"
    assert Bundle.load(tmp_path / "bundle").task == find_task(architecture).name
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task(architecture), (), True, True)
    assert_graph_equals_torch(bundle, graph)
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert {item.key for item in model.metadata_props} >= {"task", "architecture", "precision"}


@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"sinusoidal_embeddings": True, "gelu_activation": False},
        {"n_langs": 1},
        {"n_langs": 4, "use_lang_emb": False},
        {"asm": True, "asm_cutoffs": [50, 120], "tie_word_embeddings": False},
        {"tie_word_embeddings": False},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_option_of_the_language_model(options: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMWithLMHeadModel", **options)
    bundle = export(checkpoint, tmp_path / "bundle", task="fill-mask")
    names = [spec.name for spec in bundle.graph().inputs]
    uses_langs = options.get("n_langs", 4) > 1 and options.get("use_lang_emb", True)
    assert ("langs" in names) == uses_langs == bundle.conventions["uses_langs"]
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task("XLMWithLMHeadModel"))
    assert_graph_equals_torch(bundle, graph)


@pytest.mark.parametrize("summary_type", ["last", "mean", "cls_index"])
def test_every_summary(summary_type: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "checkpoint", "XLMForSequenceClassification", summary_type=summary_type, summary_activation="tanh"
    )
    bundle = export(checkpoint, tmp_path / "bundle")
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task("XLMForSequenceClassification"))
    assert_graph_equals_torch(bundle, graph)


@pytest.mark.parametrize("inputs", [("token_type_ids", "position_ids"), ("inputs_embeds",)])
def test_optional_inputs(inputs: tuple[str, ...], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMForTokenClassification")
    bundle = export(checkpoint, tmp_path / "bundle", inputs=inputs)
    assert set(inputs) <= {spec.name for spec in bundle.graph().inputs}
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task("XLMForTokenClassification"), inputs)
    assert_graph_equals_torch(bundle, graph)
    assert verify(tmp_path / "bundle", checkpoint).status == "passed"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("architecture", ["XLMWithLMHeadModel", "XLMForQuestionAnswering"])
def test_half_precision(precision: str, architecture: str, tmp_path: Path) -> None:
    if precision == "bf16":
        pytest.importorskip("openvino", reason="ONNX Runtime has no bf16 kernels on the CPU")
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture)
    bundle = export(checkpoint, tmp_path / "bundle", precision=precision)
    assert bundle.verification["status"] == "passed"
    model = onnx.load(tmp_path / "bundle" / "model.onnx")
    types = {item.data_type for item in model.graph.initializer if len(item.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16}
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert kinds[node.output[0]] == onnx.TensorProto.FLOAT, "stays in float32"


@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opsets(opset: int, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel")
    bundle = export(checkpoint, tmp_path / "bundle", opset=opset)
    assert bundle.graph().opset == opset
    assert onnx.load(tmp_path / "bundle" / "model.onnx").opset_import[0].version == opset


def test_external_data(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel")
    export(checkpoint, tmp_path / "inside")
    bundle = export(checkpoint, tmp_path / "outside", external_data=True)
    assert "model.onnx.data" in bundle.files
    shutil.move(tmp_path / "outside", tmp_path / "moved")
    inputs = {name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask", "langs")}
    sessions = [onnxruntime.InferenceSession(tmp_path / name / "model.onnx") for name in ("inside", "moved")]
    first, second = (session.run(None, inputs)[0] for session in sessions)
    np.testing.assert_array_equal(first, second)


def test_the_bundle_needs_no_checkpoint_and_no_neighbours(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMForQuestionAnswering")
    export(checkpoint, tmp_path / "bundle", cls_index="last")
    shutil.rmtree(checkpoint)
    bundle = Bundle.load(tmp_path / "bundle")
    bundle.check_files()
    assert bundle.conventions == {"uses_langs": True, "cls_index": "last"}
    assert set(bundle.files) == {path.name for path in bundle.folder.iterdir()} - {"bundle.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "no temporary folder is left"


def test_an_existing_folder_is_kept_without_force(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel")
    first = export(checkpoint, tmp_path / "bundle", verify=False)
    assert first.verification == {"status": "not run"}
    with pytest.raises(InputError, match="--force"):
        export(checkpoint, tmp_path / "bundle")
    assert export(checkpoint, tmp_path / "bundle", force=True, verify=False).files.keys() == first.files.keys()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no bundle and will not be replaced"):
        export(checkpoint, tmp_path / "other", force=True)


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel")

    def interrupt(step: str, left: int) -> None:
        if step.startswith("verify"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "bundle", progress=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_wrong_graph_fails_and_is_marked(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMForSequenceClassification")
    export(checkpoint, tmp_path / "bundle", verify=False)
    other = make_checkpoint(tmp_path / "other", "XLMForSequenceClassification", seed=1)
    report = verify(tmp_path / "bundle", other)
    assert report.status == "failed"
    assert any("relative error" in failure for failure in report.failures)
    with pytest.raises(BundleError, match="failed its verification"):
        Bundle.load(tmp_path / "bundle")
    assert verify(tmp_path / "bundle", checkpoint).status == "passed"
    assert Bundle.load(tmp_path / "bundle").verification["status"] == "passed"
    third = make_checkpoint(tmp_path / "third", "XLMForSequenceClassification", n_langs=1)
    with pytest.raises(InputError, match="gives another graph"):
        verify(tmp_path / "bundle", third)


def test_an_export_over_the_limit_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel")
    monkeypatch.setattr(OutputError, "add", lambda self, got, want: setattr(self, "max_absolute", float("nan")))
    with pytest.raises(VerificationError, match="is marked as failed"):
        export(checkpoint, tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["verification"]["status"] == "failed"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "Unknown precision 'fp8'; expected one of fp32, fp16, bf16"),
        ({"opset": 9}, "opset 9 is not offered"),
        ({"inputs": ("labels",)}, "Unknown optional input 'labels'"),
        ({"cls_index": "middle"}, "Unknown cls_index 'middle'"),
        ({"task": "summarization"}, "Unknown task 'summarization'"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel")
    with pytest.raises(InputError, match=message):
        export(checkpoint, tmp_path / "bundle", **options)
    assert not (tmp_path / "bundle").exists()


def test_the_table_of_tasks_names_each_precisions_limit() -> None:
    assert set(TOLERANCES) == {"fp32", "fp16", "bf16"}
    assert len({(task.name, task.head) for task in TASKS}) == len(TASKS)
