"""Graphs rewritten for an engine: the same answers, every layer matched, the bundle as it was after any failure."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnx_ir
import pytest

from tests.conftest import Bundles, Checkpoints, Exported, HalfBundles
from tests.make_checkpoint import make_checkpoint
from xlm_export import export, verify
from xlm_export.cli.main import main
from xlm_export.errors import OptimizationError, VerificationError
from xlm_export.onnx_graph.file import ALIGNMENT, SHARED_BYTES, external_files, open_model, save
from xlm_export.optimization import PASSES, TARGETS, optimize, passes
from xlm_export.optimization.qkv import fuse_qkv
from xlm_export.quantization import quantize
from xlm_export.verification.report import TOLERANCES, VerificationReport
from xlm_runtime import InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import BundleError
from xlm_runtime.sessions import open_session

CUDA = TARGETS["onnxruntime-cuda"]
# passes for packed graphs, and for caches in half precision
OF_OTHERS = ("packed-attention", "static-cache")
# pass → the operator it writes
OPERATORS = {
    "attention": "MultiHeadAttention",
    "qkv": "Split",
    "skip-layer-norm": "SkipLayerNormalization",
    "bias-gelu": "BiasGelu",
}


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))


SLOW_HEADS = ("feature-extraction", "question-answering-simple", "text-generation", "token-classification")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name",
    [
        "fill-mask",
        "multiple-choice",
        "question-answering",
        "text-classification",
        *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_HEADS),
    ],
)
def test_every_head(name: str, target: str, bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    before = contents(folder)
    made = optimize(folder, target)
    expected = {item: PASSES[item].per_layer * 2 for item in TARGETS[target] if item not in OF_OTHERS}
    if name == "text-generation" and "attention" in expected:
        del expected["attention"]  # past and new keys are apart
    assert made.counts == expected
    found = operators(folder / made.graph.file)
    assert {item: found[OPERATORS[item]] for item in expected} == expected
    assert made.report.status == "passed"
    assert 0 <= max(error.relative for error in made.report.outputs.values()) < TOLERANCES["fp32"].relative_error
    written = Bundle.load(folder)
    written.check_files()
    assert [graph.target for graph in written.graphs] == [None, target]
    assert written.graph(None, "cuda" if "cuda" in target else "cpu") == made.graph
    assert written.graph(None, "openvino").file == "model.onnx"
    assert all((folder / item).read_bytes() == content for item, content in before.items() if item != "bundle.json")
    assert set(written.files) == {path.name for path in folder.iterdir()} - {"bundle.json"}


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 8))])
def test_random_configurations(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    n_heads = rng.choice([1, 2, 4])
    options: dict[str, Any] = {
        "n_heads": n_heads,
        "emb_dim": n_heads * rng.choice([8, 12, 16]),
        "n_layers": rng.randint(1, 3),
        "gelu_activation": seed % 2 == 0,
        "n_langs": (1, 4)[seed % 3 == 0],
        "sinusoidal_embeddings": rng.random() < 0.3,
        "causal": seed == 4,
        "layer_norm_eps": rng.choice([1e-12, 1e-5]),
    }
    architecture = rng.choice(["XLMModel", "XLMForTokenClassification", "XLMForQuestionAnswering"])
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture, seed, **options)
    export(checkpoint, tmp_path / "bundle", opset=(18, 23)[seed % 2], verify=False)
    made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
    layers = options["n_layers"]
    expected = {"attention": layers, "qkv": layers, "skip-layer-norm": 2 * layers, "bias-gelu": layers}
    if not options["gelu_activation"]:
        del expected["bias-gelu"]
    assert made.counts == expected
    assert made.report.status == "passed"
    nodes = onnx.load(tmp_path / "bundle" / made.graph.file, load_external_data=False).graph.node
    epsilons = {item.f for node in nodes if node.op_type == "SkipLayerNormalization" for item in node.attribute}
    assert epsilons == {np.float32(options["layer_norm_eps"])}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(precision: str, half_bundles: HalfBundles, tmp_path: Path) -> None:
    shutil.copytree(half_bundles("text-classification", precision), tmp_path / "bundle")
    made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
    assert made.counts == {"attention": 2, "qkv": 2, "skip-layer-norm": 4, "bias-gelu": 2}
    assert (made.report.status, made.kept) == ("passed", ())
    if precision == "bf16":
        with pytest.raises(InputError, match="provider='cpu', which takes graphs for onnxruntime-cpu, has no kernels"):
            optimize(tmp_path / "bundle", "onnxruntime-cpu")


@pytest.mark.slow
def test_normalisations_of_a_graph_with_a_cache(half_bundles: HalfBundles, tmp_path: Path) -> None:
    """They are measured over the verification's generations."""
    shutil.copytree(half_bundles("text-generation", "fp16"), tmp_path / "bundle")
    made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
    assert made.counts == {"qkv": 2, "static-cache": 2, "skip-layer-norm": 4, "bias-gelu": 2}
    assert (made.report.status, made.kept) == ("passed", ())


@pytest.mark.parametrize(
    ("name", "recipe"),
    [("text-classification-packed", "int8-static"), ("fill-mask-packed", "int8-dynamic")],
)
def test_the_packed_layout(name: str, recipe: str, bundles: Bundles, tmp_path: Path) -> None:
    """Its products are joined already; graphs for CUDA have tests of their own."""
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    task = Bundle.load(folder).task
    text = "The old lighthouse stands at the <mask> of the town." if task == "fill-mask" else "Anna lives in London."
    want = pipeline(task, folder)(text, top_k=1)
    for target, counts in (
        ("onnxruntime-cuda", {"packed-attention": 2, "skip-layer-norm": 4, "bias-gelu": 2}),
        ("onnxruntime-cpu", {"bias-gelu": 2}),
    ):
        made = optimize(folder, target)
        assert (made.counts, made.report.status, made.graph.layout) == (counts, "passed", "packed")
        assert made.graph.file == f"model.packed.fp32.{target}.onnx"
    opened = pipeline(task, folder)
    assert opened.model.graph.target == "onnxruntime-cpu"
    got = opened(text, top_k=1)
    first, second = (value[0] if isinstance(value, list) else value for value in (got, want))
    assert first["score"] == pytest.approx(second["score"], abs=1e-5)
    quantized = quantize(folder, recipe)
    assert quantized.graph.file == f"model.packed.{recipe}.onnx"
    assert 0 < quantized.report["divergence"] < 1e-2
    assert optimize(folder, "onnxruntime-cpu", precision="int8").counts == {"bias-gelu": 2}
    with pytest.raises(InputError, match="qkv: the packed layout has joined the products already"):
        optimize(folder, "onnxruntime-cpu", passes=["qkv"], force=True)


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static"])
def test_int8_graphs(recipe: str, bundle: Path) -> None:
    quantize(bundle, recipe)
    made = optimize(bundle, "onnxruntime-cuda", precision="int8")
    assert made.counts == {"attention": 2, "skip-layer-norm": 4, "bias-gelu": 2}
    assert made.report.status == "passed"
    assert made.graph.weights_in == (f"model.{recipe}.onnx",)
    assert pipeline("text-classification", bundle, precision="int8").model.graph.file == f"model.{recipe}.onnx"
    optimize(bundle, "onnxruntime-cpu", precision="int8")
    assert pipeline("text-classification", bundle, precision="int8").model.graph.target == "onnxruntime-cpu"
    with pytest.raises(InputError, match="qkv: its products are in int8 already"):
        optimize(bundle, "onnxruntime-cpu", precision="int8", passes=["qkv"], force=True)
    quantize(bundle, recipe, force=True)
    written = Bundle.load(bundle)
    written.check_files()
    assert [graph.file for graph in written.graphs] == ["model.onnx", f"model.{recipe}.onnx"], (
        "what was made of it is gone"
    )
    assert written.verification["optimized"] == {}, "and so are the reports on it"
    assert set(written.files) == {path.name for path in bundle.iterdir()} - {"bundle.json"}


def test_answers_are_those_of_the_portable_graph(bundle: Path) -> None:
    texts = ["The old lighthouse stands at the edge of the small town.", "Anna Miller lives in London."]
    before = pipeline("text-classification", bundle)(texts)
    made = optimize(bundle, "onnxruntime-cpu")
    opened = pipeline("text-classification", bundle)
    assert opened.model.graph == made.graph
    for got, want in zip(opened(texts), before, strict=True):
        assert got["label"] == want["label"]
        assert got["score"] == pytest.approx(want["score"], abs=1e-5)
    (bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match="has changed since the export"):
        pipeline("text-classification", bundle)(texts)


@pytest.mark.slow
def test_weights_are_shared_not_doubled(checkpoints: Checkpoints, exported: Exported, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMModel", emb_dim=64, vocab_size=2000)
    for name, external in (("inline", False), ("external", True)):
        folder = Path(shutil.copytree(exported(checkpoint, external_data=external), tmp_path / name))
        whole = sum(path.stat().st_size for path in folder.glob("model.onnx*"))
        assert b".py" not in (folder / "model.onnx").read_bytes(), "no paths of the machine that exported it"
        made = optimize(folder, "onnxruntime-cpu")
        assert made.graph.weights_in == (("model.onnx.data",) if external else ("model.onnx",))
        assert (folder / made.graph.file).stat().st_size < 0.1 * whole
        joined = optimize(folder, "onnxruntime-cpu", passes=["qkv"], force=True)
        weights = 2 * 3 * 64 * 64 * 4
        assert weights < (folder / joined.graph.file).stat().st_size < 0.1 * whole + weights


@pytest.mark.parametrize("seed", range(4))
def test_files_as_the_library_reads_them(seed: int, tmp_path: Path) -> None:
    """Our writer and reader against onnx's, over weights of many sizes."""
    rng = np.random.default_rng(seed)
    sizes = [1, 3, SHARED_BYTES // 4 - 1, SHARED_BYTES // 4, *rng.integers(1, 40_000, 12).tolist()]
    arrays = {
        f"w{'x' * int(rng.integers(0, 90))}{i}": rng.normal(size=n).astype(np.float32) for i, n in enumerate(sizes)
    }
    weights = [
        onnx_ir.Value(name=name, const_value=onnx_ir.tensor(array, name=name), shape=onnx_ir.Shape(array.shape),
                      type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT))
        for name, array in arrays.items()
    ]  # fmt: skip
    node = onnx_ir.node("Identity", [weights[0]])
    node.outputs[0].name, node.outputs[0].type = "out", onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    node.outputs[0].shape = onnx_ir.Shape([1])
    graph = onnx_ir.Graph([], [node.outputs[0]], nodes=[node], initializers=weights, opset_imports={"": 18}, name="g")
    save(onnx_ir.Model(graph, ir_version=10), tmp_path / "first.onnx")
    read = {
        item.name: onnx.numpy_helper.to_array(item) for item in onnx.load(tmp_path / "first.onnx").graph.initializer
    }
    again = open_model(tmp_path / "first.onnx")
    save(again, tmp_path / "second.onnx")
    onnx.checker.check_model(str(tmp_path / "second.onnx"), full_check=True)
    second = {item.name: onnx.numpy_helper.to_array(item, str(tmp_path))
              for item in onnx.load(tmp_path / "second.onnx").graph.initializer}  # fmt: skip
    for name, array in arrays.items():
        for found in (read[name], again.graph.initializers[name].const_value.numpy(), second[name]):  # type: ignore[union-attr]
            np.testing.assert_array_equal(found, array)
        tensor = again.graph.initializers[name].const_value
        assert isinstance(tensor, onnx_ir.ExternalTensor) == (array.nbytes >= SHARED_BYTES)
        if isinstance(tensor, onnx_ir.ExternalTensor):
            assert tensor.offset is not None
            assert tensor.offset % ALIGNMENT == 0
    assert external_files(again) == ("first.onnx",)
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "first.onnx").read_bytes()[:1] + b"\xff" * 3)
    with pytest.raises(ValueError, match="expected an ONNX file"):
        open_model(tmp_path / "cut.onnx")


@pytest.mark.parametrize(
    ("operator", "number", "other", "message"),
    [
        ("Softmax", 1, "LogSoftmax", "pass 'attention' matched 0 times in layer 1, expected 1"),
        ("attentions.1.k_lin.bias", 0, "Sub", "pass 'qkv' matched 0 times in layer 1, expected 1"),
        ("layer_norm2.0.weight", 0, "RMSNormalization", "pass 'skip-layer-norm' matched 1 times in layer 0"),
        ("Erf", 0, "Tanh", "pass 'bias-gelu' matched 0 times in layer 0, expected 1"),
    ],
)
def test_a_graph_that_does_not_match(operator: str, number: int, other: str, message: str, bundle: Path) -> None:
    """One operator, named by its type or by a weight that it reads, is another one."""
    model = onnx.load(bundle / "model.onnx")
    nodes = model.graph.node
    found = [node for node in nodes if node.op_type == operator or any(name.endswith(operator) for name in node.input)]
    found[number].op_type = other
    replace_graph(bundle, model)
    before = contents(bundle)
    with pytest.raises(OptimizationError, match=message):
        optimize(bundle, "onnxruntime-cuda")
    assert contents(bundle) == before


def replace_graph(bundle: Path, model: onnx.ModelProto) -> None:
    from xlm_runtime.bundle import file_sha256

    onnx.save(model, bundle / "model.onnx")
    values = json.loads((bundle / "bundle.json").read_text())
    values["files"]["model.onnx"] = file_sha256(bundle / "model.onnx")
    (bundle / "bundle.json").write_text(json.dumps(values))


def test_products_of_two_inputs_are_joined_two_by_two() -> None:
    """Where queries are computed for fewer tokens, keys and values are joined, in Gemm's form as well."""
    rng = np.random.default_rng(0)
    make = onnx.helper.make_tensor_value_info
    inputs = [make("x", onnx.TensorProto.FLOAT, [5, 4]), make("few", onnx.TensorProto.FLOAT, [2, 4])]
    nodes, weights = [], []
    for part, source in (("q", "few"), ("k", "x"), ("v", "x")):
        names = [source, f"w{part}", f"attentions.0.{part}_lin.bias"]
        nodes.append(onnx.helper.make_node("Gemm", names, [part], transB=1))
        for name, shape in zip(names[1:], ((4, 4), (4,)), strict=True):
            weights.append(onnx.numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
    outputs = [make(part, onnx.TensorProto.FLOAT, [2 if part == "q" else 5, 4]) for part in "qkv"]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, weights)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    feed = {"x": rng.normal(size=(5, 4)).astype(np.float32), "few": rng.normal(size=(2, 4)).astype(np.float32)}
    want = onnx.reference.ReferenceEvaluator(proto).run(None, feed)
    model = onnx_ir.from_proto(proto)
    assert fuse_qkv(model) == [0]
    assert Counter(node.op_type for node in model.graph) == {"Gemm": 2, "Split": 1}
    got = onnx.reference.ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, feed)
    for ours, theirs in zip(got, want, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_wrong_answers_leave_the_bundle_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoil(model: onnx_ir.Model, half: bool, kept: object) -> list[int]:
        value = next(item for name, item in model.graph.initializers.items() if name.endswith("layer_norm_emb.bias"))
        value.const_value = onnx_ir.tensor(value.const_value.numpy() + 1, name=value.name)  # type: ignore[union-attr]
        return [0, 1]

    monkeypatch.setitem(passes.PASSES, "bias-gelu", passes.Pass(spoil, 1, lambda graph, config: None))
    before = contents(bundle)
    with pytest.raises(VerificationError, match=r"was not added(.|\n)*relative error"):
        optimize(bundle, "onnxruntime-cpu")
    assert contents(bundle) == before


@pytest.mark.parametrize("moment", ["match the passes", "write the graph", "verify"])
def test_an_interruption_leaves_the_bundle_as_it_was(moment: str, bundle: Path) -> None:
    def interrupt(step: str, left: int) -> None:
        if step.startswith(moment):
            raise KeyboardInterrupt

    before = contents(bundle)
    with pytest.raises(KeyboardInterrupt):
        optimize(bundle, "onnxruntime-cpu", progress=interrupt)
    assert contents(bundle) == before


def test_replacing_takes_force(bundle: Path, bundles: Bundles) -> None:
    first = optimize(bundle, "onnxruntime-cpu")
    with pytest.raises(InputError, match="has a graph for onnxruntime-cpu in fp32 already; use --force"):
        optimize(bundle, "onnxruntime-cpu")
    second = optimize(bundle, "onnxruntime-cpu", passes=["qkv"], force=True)
    assert second.graph.file == first.graph.file
    optimize(bundle, "onnxruntime-cuda")
    written = Bundle.load(bundle)
    written.check_files()
    assert [graph.target for graph in written.graphs] == [None, "onnxruntime-cpu", "onnxruntime-cuda"]
    verify(bundle, bundles("text-classification").parent / "checkpoints" / "text-classification")
    summary = Bundle.load(bundle).verification["optimized"][second.graph.file]
    assert (summary["status"], summary["passes"]) == ("passed", {"qkv": 2})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tpu"}, "Unknown target 'tpu'; expected one of onnxruntime-cpu, onnxruntime-cuda"),
        ({"passes": ["gelu"]}, "Unknown pass 'gelu'; expected some of attention, packed-attention, qkv"),
        ({"precision": "fp16"}, "no portable graph in precision 'fp16' to optimise; it has fp32"),
        ({"precision": "int4"}, "no portable graph in precision 'int4'"),
    ],
)
def test_refused(options: dict[str, Any], message: str, bundle: Path) -> None:
    with pytest.raises(InputError, match=message):
        optimize(bundle, options.pop("target", "onnxruntime-cpu"), **options)


def test_nothing_to_do(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel", gelu_activation=False, n_layers=1)
    export(checkpoint, tmp_path / "bundle", attentions=True, verify=False)
    with pytest.raises(InputError, match=r"bias-gelu: the checkpoint's activation is ReLU. Use the portable graph"):
        optimize(tmp_path / "bundle", "onnxruntime-cpu")
    with pytest.raises(InputError, match="attention: the attention weights are outputs of the graph"):
        optimize(tmp_path / "bundle", "onnxruntime-cpu", passes=["attention", "qkv"])
    made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
    assert made.counts == {"qkv": 1, "skip-layer-norm": 2}


def test_the_report_names_what_it_compared(bundle: Path) -> None:
    made = optimize(bundle, "onnxruntime-cpu")
    assert isinstance(made.report, VerificationReport)
    assert len(made.report.cases) == 7
    assert made.report.outputs["logits"].compared > 0
    session = open_session(bundle / made.graph.file)
    assert session.input_names == tuple(spec.name for spec in made.graph.inputs)


def test_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optimize", str(bundle), "--target", "onnxruntime-cuda"]) == 0
    out = capsys.readouterr().out
    assert "model.fp32.onnxruntime-cuda.onnx" in out
    assert "the rest of its weights in model.onnx" in out
    assert "attention 2, qkv 2, skip-layer-norm 4, bias-gelu 2" in out
    assert f"{bundle} --provider cuda" in out.splitlines()[-1]
    assert main(["optimize", str(bundle), "--target", "onnxruntime-cpu", "--passes", "magic"]) == 1
    assert "Unknown pass 'magic'" in capsys.readouterr().err
