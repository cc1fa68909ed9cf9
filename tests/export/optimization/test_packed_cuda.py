"""Packed graphs for CUDA, which no CPU computes: by a copy in standard operators, and by the kernels in numpy."""

from __future__ import annotations

import importlib
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as make
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tests.conftest import Bundles, Checkpoints, Exported
from tests.cuda_operators import NumpySession
from tests.export.optimization.test_optimize import contents, operators, replace_graph
from tests.make_checkpoint import make_checkpoint
from xlm_export import export
from xlm_export.errors import OptimizationError
from xlm_export.optimization import Optimization, optimize
from xlm_export.verification.against_graph import verify_against
from xlm_export.verification.on_cpu import open_on_cpu
from xlm_export.verification.report import TOLERANCES
from xlm_runtime import InputError
from xlm_runtime.model.opening import check_graph
from xlm_runtime.tasks import ROW_INPUTS, cuda_packed_inputs, find_task

CUDA = "onnxruntime-cuda"
HEADS = ("feature-extraction", "fill-mask", "text-classification", "multiple-choice", "token-classification",
         "question-answering", "question-answering-simple")  # fmt: skip
OF_PORTABLE = {"segment_ids", "kept_token_index", "kept_padded_index"}


def verified_in_numpy(made: Optimization) -> None:
    """The graph itself against the portable one, over the batches of the verification."""
    bundle, entry = made.bundle, made.graph
    source = next(graph for graph in bundle.graphs if graph.is_portable and graph.precision == entry.precision)
    reference = open_on_cpu(bundle.folder / source.file, bundle.folder / "reference.onnx")
    candidate = NumpySession(bundle.folder / entry.file)
    report = verify_against(reference, candidate, bundle, source, entry, "numpy")
    assert not report.failures, report.table()


def checked(folder: Path, kept: tuple[str, ...] = ()) -> Optimization:
    """Optimise a bundle with one packed graph, and look at what was made."""
    made = optimize(folder, CUDA)
    bundle, config = made.bundle, made.bundle.config
    task, layers = find_task(bundle.architecture, bundle.task), config.n_layers
    assert made.counts.pop("bias-gelu", layers) == layers
    assert made.counts == {"packed-attention": layers, "skip-layer-norm": 2 * layers - len(kept)}
    assert (made.kept, made.report.status, made.graph.layout, made.graph.target) == (kept, "passed", "packed", CUDA)
    report = bundle.verification["optimized"][made.graph.file]
    assert (report["kept_in_float32"], report["passes"]["packed-attention"]) == ([*kept], layers)

    portable = bundle.graphs[0].inputs
    assert made.graph.inputs == cuda_packed_inputs(task, config, portable)
    names = {spec.name for spec in made.graph.inputs}
    assert names.isdisjoint(OF_PORTABLE)
    assert names > {spec.name for spec in ROW_INPUTS}
    graph = onnx.load(folder / made.graph.file, load_external_data=False).graph
    assert [(item.name, [dim.dim_param for dim in item.type.tensor_type.shape.dim]) for item in graph.input] == [
        (spec.name, [*spec.axes]) for spec in made.graph.inputs
    ]
    attentions = [node for node in graph.node if node.op_type == "PackedMultiHeadAttention"]
    assert len(attentions) == layers
    for node in attentions:
        values = {item.name: make.get_attribute_value(item) for item in node.attribute}
        assert values == {"num_heads": config.n_heads, "scale": np.float32(config.head_dim**-0.5)}
    assert bundle.graph(None, "cuda") == made.graph
    check_graph(made.graph, bundle)
    verified_in_numpy(made)
    return made


@pytest.mark.parametrize("name", HEADS)
def test_every_head(name: str, bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles(f"{name}-packed"), tmp_path / "bundle"))
    made = checked(folder)
    found = operators(folder / made.graph.file)
    assert found.keys().isdisjoint({"GatherND", "Erf"})
    assert found["Softmax"] == 2 * (name == "question-answering"), "of starts and ends"
    assert found["LayerNormalization"] == 1 + (name == "question-answering"), "of the embeddings, and the beam head's"
    kept = any(spec.name == "kept_index" for spec in made.graph.inputs)
    assert kept == (name in ("fill-mask", "text-classification", "multiple-choice"))


@pytest.mark.whole
@pytest.mark.parametrize("name", ["fill-mask", "multiple-choice", "question-answering", "token-classification"])
def test_every_head_in_half_precision(name: str, bundles: Bundles, exported: Exported, tmp_path: Path) -> None:
    checkpoint = bundles(f"{name}-packed").parent / "checkpoints" / name
    portable = exported(checkpoint, precision="fp16", layout="packed", verify=False)
    made = checked(Path(shutil.copytree(portable, tmp_path / "bundle")))
    assert made.report.precision == "fp16"
    before, after = (operators(tmp_path / "bundle" / file)["Cast"] for file in ("model.onnx", made.graph.file))
    of_places = name == "question-answering"  # which of a row's places are real
    assert before - after == 2 * 8 - of_places, "a layer's: three for each normalisation, and two of softmax"


@pytest.mark.whole
@pytest.mark.parametrize(
    ("architecture", "precision", "options"),
    [
        ("XLMForSequenceClassification", "fp16", {"summary_type": "last"}),
        ("XLMForSequenceClassification", "fp16", {"summary_type": "mean"}),
        ("XLMForMultipleChoice", "fp32", {"summary_type": "mean", "n_layers": 1}),
        ("XLMForQuestionAnswering", "fp32", {"n_heads": 1, "n_langs": 1}),
    ],
    ids=str,
)
def test_every_option(
    architecture: str, precision: str, options: dict[str, Any], checkpoints: Checkpoints, tmp_path: Path
) -> None:
    checkpoint = checkpoints(architecture, **options)
    export(checkpoint, tmp_path / "bundle", precision=precision, layout="packed", verify=False)
    checked(tmp_path / "bundle")


@pytest.mark.whole
@pytest.mark.parametrize("seed", range(3))
def test_random_configurations(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    n_heads = rng.choice([1, 2, 3, 4])
    options: dict[str, Any] = {
        "n_heads": n_heads,
        "emb_dim": n_heads * rng.choice([6, 8, 16]),
        "n_layers": rng.randint(1, 3),
        "gelu_activation": seed % 2 == 0,
        "n_langs": (1, 4)[seed % 3 == 0],
        "layer_norm_eps": (1e-12, 1e-5)[seed % 2],
    }
    architecture = ("XLMModel", "XLMForQuestionAnsweringSimple", "XLMForMultipleChoice")[seed]
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture, seed, **options)
    precision, inputs = ("fp16", "fp16", "fp32")[seed], (("token_type_ids",), ())[seed % 2]
    export(checkpoint, tmp_path / "bundle", opset=(18, 23)[seed % 2], layout="packed", precision=precision,
           inputs=inputs, verify=False)  # fmt: skip
    checked(tmp_path / "bundle")


@pytest.mark.slow
def test_bfloat16(bundles: Bundles, exported: Exported, tmp_path: Path) -> None:
    """Attention, which has no kernel for it, runs in float32, and the verification in float32 throughout."""
    checkpoint = bundles("text-classification-packed").parent / "checkpoints" / "text-classification"
    portable = exported(checkpoint, precision="bf16", layout="packed", verify=False)
    made = optimize(shutil.copytree(portable, tmp_path / "bundle"), CUDA)
    assert made.counts == {"packed-attention": 2, "skip-layer-norm": 4 - len(made.kept), "bias-gelu": 2}
    assert made.report.outputs["logits"].relative < TOLERANCES["fp32"].relative_error
    model = onnx.load(tmp_path / "bundle" / made.graph.file)
    weights = {item.name: item.data_type for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type == "PackedMultiHeadAttention":
            assert weights[node.input[3]] == TensorProto.FLOAT
            assert makers[node.input[0]].op_type == "Cast"


# ---- the operator


def attention_graph(path: Path, n_heads: int, head_dim: int, bias: np.ndarray) -> None:
    dtype = make.np_dtype_to_tensor_dtype(bias.dtype)
    names = ["heads", "", "", "bias", "token_offset", "cumulative_sequence_length"]
    node = make.make_node("PackedMultiHeadAttention", names, ["context"], domain="com.microsoft", num_heads=n_heads,
                          scale=float(0.7 / head_dim**0.5))  # fmt: skip
    inputs = [make.make_tensor_value_info("heads", dtype, ["tokens", n_heads, 3, head_dim])]
    inputs += [make.make_tensor_value_info(spec.name, TensorProto.INT32, spec.axes) for spec in ROW_INPUTS]
    outputs = [make.make_tensor_value_info("context", dtype, ["tokens", n_heads * head_dim])]
    graph = make.make_graph([node], "attention", inputs, outputs, [numpy_helper.from_array(bias, "bias")])
    opsets = [make.make_opsetid("", 18), make.make_opsetid("com.microsoft", 1)]
    onnx.save(make.make_model(graph, opset_imports=opsets, ir_version=9), path)


@pytest.mark.parametrize("seed", range(4))
def test_the_copy_for_the_cpu_computes_the_operator(seed: int, tmp_path: Path) -> None:
    """Rows of any length, none among them; both types."""
    rng = np.random.default_rng(seed)
    dtype = (np.float32, np.float16)[seed % 2]
    n_heads, head_dim = (int(rng.integers(1, 5)) for _ in range(2))
    lengths = rng.integers(0, 7, rng.integers(1, 6))
    lengths[0] += 1
    bias = rng.normal(size=3 * n_heads * head_dim).astype(dtype)
    attention_graph(tmp_path / "graph.onnx", n_heads, head_dim, bias)
    mask = np.arange(lengths.max() + seed) < lengths[:, None]
    feed = {
        "heads": rng.normal(size=(lengths.sum(), n_heads, 3, head_dim)).astype(dtype),
        "token_offset": np.concatenate((np.flatnonzero(mask), np.flatnonzero(~mask))).astype(np.int32),
        "cumulative_sequence_length": np.array([0, *np.cumsum(lengths)], np.int32),
    }
    feed["token_offset"] = feed["token_offset"].reshape(mask.shape)
    session = open_on_cpu(tmp_path / "graph.onnx", tmp_path / "copy.onnx")
    (want,) = NumpySession(tmp_path / "graph.onnx").run(feed).values()
    (got,) = session.run(feed).values()
    np.testing.assert_allclose(got, want, atol=2e-6 if dtype == np.float32 else 4e-3)
    assert {node.domain for node in onnx.load(tmp_path / "copy.onnx").graph.node} == {"xlm_export.on_cpu"}


# ---- where half precision ends


def large_sums(folder: Path) -> Path:
    """Two terms that fp16 holds, and a sum that it does not, before the second normalisation of layer 0."""
    from safetensors.torch import save_file

    from xlm_export import load_checkpoint

    checkpoint = make_checkpoint(folder / "checkpoint", "XLMModel", init_std=0.05)
    model: Any = load_checkpoint(checkpoint).model
    with torch.no_grad():
        norm, ffn = model.layer_norm1[0], model.ffns[0]
        norm.weight.fill_(3000.0)
        norm.bias.fill_(0.0)
        norm.bias[:4] = 33000.0
        ffn.lin1.weight *= 1e-4
        ffn.lin2.bias.fill_(0.0)
        ffn.lin2.bias[:4] = 33000.0
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, checkpoint / "model.safetensors"
    )
    export(checkpoint, folder / "bundle", precision="fp16", layout="packed")
    return folder / "bundle"


@pytest.mark.slow
def test_sums_beyond_the_range_stay_in_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = large_sums(tmp_path)
    before = shutil.copytree(folder, tmp_path / "again")
    checked(folder, kept=("model.ffns.0.lin2",))
    module = importlib.import_module("xlm_export.optimization.optimize")
    monkeypatch.setattr(module, "too_narrow", lambda *_: [])
    made = optimize(before, CUDA)
    with pytest.raises(AssertionError, match=r"NaN or infinite|relative error"):
        verified_in_numpy(made)


# ---- refusals


def test_a_causal_checkpoint(checkpoints: Checkpoints, exported: Exported, tmp_path: Path) -> None:
    portable = exported(checkpoints("XLMForTokenClassification", causal=True), layout="packed", verify=False)
    folder = Path(shutil.copytree(portable, tmp_path / "bundle"))
    with pytest.raises(InputError, match="packed-attention: the checkpoint is causal, and the operator lets every"):
        optimize(folder, CUDA, passes=["packed-attention"])
    made = optimize(folder, CUDA)
    assert made.counts == {"skip-layer-norm": 4, "bias-gelu": 2}
    assert made.graph.inputs == made.bundle.graphs[0].inputs


@pytest.mark.parametrize(
    ("operator", "number", "other", "message"),
    [
        ("Softmax", 1, "LogSoftmax", "pass 'packed-attention' matched 0 times in layer 1, expected 1"),
        ("attentions.0.qkv_lin.bias", 0, "Sub", "pass 'packed-attention' matched 0 times in layer 0, expected 1"),
        ("attentions.1.q_lin.weight.transposed", 0, "Sub", "pass 'packed-attention' matched 0 times in layer 1"),
        ("attentions.1.out_lin.bias", 0, "Sub", "pass 'skip-layer-norm' matched 1 times in layer 1, expected 2"),
    ],
)
def test_a_damaged_graph(
    operator: str, number: int, other: str, message: str, bundles: Bundles, tmp_path: Path
) -> None:
    """One operator, named by its type or by a weight that it reads, is another one."""
    folder = Path(shutil.copytree(bundles("text-classification-packed"), tmp_path / "bundle"))
    model = onnx.load(folder / "model.onnx")
    nodes = model.graph.node
    found = [node for node in nodes if node.op_type == operator or any(name.endswith(operator) for name in node.input)]
    found[number].op_type = other
    replace_graph(folder, model)
    before = contents(folder)
    with pytest.raises(OptimizationError, match=message):
        optimize(folder, CUDA)
    assert contents(folder) == before


def test_indices_that_something_else_reads(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification-packed"), tmp_path / "bundle"))
    model = onnx.load(folder / "model.onnx")
    model.graph.node.append(make.make_node("Identity", ["segment_ids"], ["segments"]))
    model.graph.output.append(make.make_tensor_value_info("segments", TensorProto.INT64, ["packs", "longest"]))
    replace_graph(folder, model)
    with pytest.raises(OptimizationError, match=r"left the inputs input_ids, .*padded_index.*, expected input_ids, "):
        optimize(folder, CUDA)
