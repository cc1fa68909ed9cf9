"""Traced graphs of every head equal torch: shapes, precisions, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Checkpoints, Exported, HalfBundles
from tests.make_checkpoint import make_checkpoint
from tests.tolerances import RUNTIME_FP32
from xlm_export import export, load_checkpoint, verify
from xlm_export.families.xlm.family import XLM
from xlm_export.tracing.graph import ExportGraph
from xlm_runtime.bundle import Bundle
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import find_task

# (batch, sequence): other sizes than the traced ones, 1 and the longest among them
SHAPES = [(1, 1), (1, 64), (5, 3), (2, 33)]
# one that keeps all tokens and one that keeps some; the others are slow tests
FAST_HEADS = ("XLMForSequenceClassification", "XLMWithLMHeadModel")
# summary_type → opset of its graph: the oldest, one between, and the newest
SUMMARIES = {"last": 18, "mean": 20, "cls_index": 23}


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


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(name, marks=() if name in FAST_HEADS else pytest.mark.slow) for name in XLM.architectures],
)
def test_every_head(architecture: str, checkpoints: Checkpoints, exported: Exported) -> None:
    checkpoint = checkpoints(architecture)
    bundle = Bundle.load(exported(checkpoint, hidden_states=True, attentions=True))
    assert bundle.verification["status"] == "passed"
    assert bundle.task == find_task(architecture).name
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task(architecture), (), True, True)
    assert_graph_equals_torch(bundle, graph)
    model = onnx.load(bundle.folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    assert {item.key for item in model.metadata_props} >= {"task", "architecture", "precision"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"causal": True},
        {"sinusoidal_embeddings": True, "gelu_activation": False},
        {"n_langs": 1, "n_layers": 1},
        {"n_langs": 4, "use_lang_emb": False, "n_layers": 1},
        {"asm": True, "asm_cutoffs": [50, 120], "tie_word_embeddings": False, "n_layers": 1},
        {"tie_word_embeddings": False, "n_layers": 1},
    ],
    ids=lambda options: ",".join(options),
)
def test_every_option_of_the_language_model(
    options: dict[str, Any], checkpoints: Checkpoints, exported: Exported
) -> None:
    checkpoint = checkpoints("XLMWithLMHeadModel", **options)
    bundle = Bundle.load(exported(checkpoint, task="fill-mask"))
    names = [spec.name for spec in bundle.graph().inputs]
    uses_langs = options.get("n_langs", 4) > 1 and options.get("use_lang_emb", True)
    assert ("langs" in names) == uses_langs == bundle.conventions["uses_langs"]
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task("XLMWithLMHeadModel"))
    assert_graph_equals_torch(bundle, graph)


@pytest.fixture(params=SUMMARIES)
def summary(request: pytest.FixtureRequest, checkpoints: Checkpoints, exported: Exported) -> tuple[Path, Bundle]:
    """A classifier's checkpoint of each way to summarise, and its bundle, each of another opset."""
    options = {"n_layers": 1, "summary_type": request.param, "summary_activation": "tanh"}
    checkpoint = checkpoints("XLMForSequenceClassification", **options)
    return checkpoint, Bundle.load(exported(checkpoint, opset=SUMMARIES[request.param], verify=False))


def test_every_summary(summary: tuple[Path, Bundle]) -> None:
    checkpoint, bundle = summary
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task("XLMForSequenceClassification"))
    assert_graph_equals_torch(bundle, graph)


def test_opsets(summary: tuple[Path, Bundle]) -> None:
    checkpoint, bundle = summary
    opset = SUMMARIES[load_checkpoint(checkpoint).config.summary_type]
    assert bundle.graph().opset == opset
    assert onnx.load(bundle.folder / "model.onnx").opset_import[0].version == opset


def test_weights_that_are_all_equal(tmp_path: Path) -> None:
    """Folding merges them, and several products then share weight and bias."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMForTokenClassification", n_layers=1)
    weights = load_file(checkpoint / "model.safetensors")
    save_file({name: torch.ones_like(value) for name, value in weights.items()}, checkpoint / "model.safetensors")
    assert export(checkpoint, tmp_path / "bundle").verification["status"] == "passed"


def test_optional_inputs(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMForTokenClassification", n_layers=1)
    inputs = ("token_type_ids", "position_ids", "inputs_embeds")
    bundle = export(checkpoint, tmp_path / "bundle", inputs=inputs, verify=False)
    assert set(inputs) <= {spec.name for spec in bundle.graph().inputs}
    graph = ExportGraph(load_checkpoint(checkpoint).model, find_task("XLMForTokenClassification"), inputs)
    assert_graph_equals_torch(bundle, graph)
    assert verify(bundle.folder, checkpoint).status == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("name", ["fill-mask", "question-answering"])
def test_half_precision(precision: str, name: str, half_bundles: HalfBundles) -> None:
    if precision == "bf16":
        pytest.importorskip("openvino", reason="ONNX Runtime has no bf16 kernels on the CPU")
    bundle = Bundle.load(half_bundles(name, precision))
    assert bundle.verification["status"] == "passed"
    model = onnx.load(bundle.folder / "model.onnx")
    types = {item.data_type for item in model.graph.initializer if len(item.dims) == 2}
    assert types == {onnx.TensorProto.FLOAT16 if precision == "fp16" else onnx.TensorProto.BFLOAT16}
    inferred = onnx.shape_inference.infer_shapes(model)
    kinds = {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}
    for node in model.graph.node:
        if node.op_type in ("Softmax", "LayerNormalization"):
            assert kinds[node.output[0]] == onnx.TensorProto.FLOAT, "stays in float32"
