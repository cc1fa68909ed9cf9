"""Packed exports: what the graph computes for whom, every option, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.conftest import Bundles, Checkpoints
from tests.paths import ROOT
from tests.tolerances import RUNTIME_FP32
from xlm_export import export, verify
from xlm_export.cli.main import main
from xlm_export.families.xlm.modeling import XLMConfig, XLMForSequenceClassification
from xlm_export.tracing.graph import ExportGraph
from xlm_export.tracing.trace import trace
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import InputError
from xlm_runtime.model.packing import pack
from xlm_runtime.tasks import find_task, graph_inputs

LENGTHS = [3, 31, 1, 12, 20]  # 67 tokens on 155 places
TOKENS, ROWS = sum(LENGTHS), len(LENGTHS)


def padded_batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]).astype(np.int64)
    positions = rng.choice(np.flatnonzero(mask), 7, replace=False)
    return {
        "input_ids": rng.integers(5, 50, mask.shape),
        "attention_mask": mask,
        "langs": rng.integers(0, 4, mask.shape),
        "logit_positions": positions,
        "p_mask": (rng.random(mask.shape) < 0.3).astype(np.float32),
        "cls_index": np.array(LENGTHS) - 1,
    }


def product_rows(folder: Path) -> list[tuple[str, int]]:
    """Each product with a weight, by the weight's name, and the rows that it computed for the batch."""
    bundle = Bundle.load(folder)
    model = onnx.load(folder / "model.onnx")
    weights = {item.name for item in model.graph.initializer}
    visible: list[tuple[str, str]] = []
    for node in model.graph.node:
        weight = next((name for name in node.input[:2] if name in weights), None)
        if node.op_type in ("Gemm", "MatMul") and weight is not None:
            visible.append((weight, node.output[0]))
    there = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for _, name in visible if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = padded_batch()
    if "Choice" in bundle.architecture:
        feed = {name: value[:, None] for name, value in feed.items()}
    packed = pack(feed, bundle.graph().inputs, bundle.config.summary_type)
    outputs = dict(zip((item.name for item in session.get_outputs()), session.run(None, packed), strict=True))
    return [(weight, outputs[name].reshape(-1, outputs[name].shape[-1]).shape[0]) for weight, name in visible]


# task → rows that leave the last layer
@pytest.mark.parametrize(
    ("name", "kept"),
    [("fill-mask", 7), ("text-classification", ROWS), ("token-classification", TOKENS), ("question-answering", TOKENS)],
)
def test_products_run_on_real_tokens_and_in_the_last_layer_on_kept_ones(name: str, kept: int, bundles: Bundles) -> None:
    folder = bundles(f"{name}-packed")
    last = Bundle.load(folder).config.n_layers - 1
    found = product_rows(folder)
    body = {
        weight.removeprefix("model.").removeprefix("transformer.").removesuffix(".transposed"): rows
        for weight, rows in found
    }
    expected: dict[str, int] = {}
    for layer in range(last + 1):
        rows = kept if layer == last else TOKENS
        if rows == TOKENS:
            expected[f"attentions.{layer}.qkv_lin.weight"] = TOKENS
        else:  # keys and values of all, queries of the kept ones
            expected |= {f"attentions.{layer}.kv_lin.weight": TOKENS, f"attentions.{layer}.q_lin.weight": rows}
        for part in ("attentions.{}.out_lin", "ffns.{}.lin1", "ffns.{}.lin2"):
            expected[f"{part.format(layer)}.weight"] = rows
    layers = {weight: rows for weight, rows in body.items() if weight.startswith(("attentions.", "ffns."))}
    assert layers == expected
    head = [rows for weight, rows in body.items() if weight not in layers]
    assert head
    # rows of the batch, or starts of the beam, and no place that is padding
    config = Bundle.load(folder).config
    assert set(head) <= {kept, ROWS, ROWS * config.start_n_top, TOKENS * config.start_n_top}


def test_the_contract_of_the_table(bundles: Bundles) -> None:
    bundle = Bundle.load(bundles("fill-mask-packed"))
    graph = bundle.graph()
    assert graph.layout == "packed"
    assert graph.inputs == graph_inputs(find_task("XLMWithLMHeadModel"), bundle.config, layout="packed")
    model = onnx.load(bundle.folder / graph.file)
    onnx.checker.check_model(model, full_check=True)
    shapes = {item.name: [dim.dim_param or dim.dim_value for dim in item.type.tensor_type.shape.dim]
              for item in model.graph.input}  # fmt: skip
    assert shapes == {spec.name: list(spec.axes) for spec in graph.inputs}
    assert {node.domain for node in model.graph.node} == {""}
    assert {item.value for item in model.metadata_props if item.key == "layout"} == {"packed"}
    assert any(case.startswith("11 random lengths") for case in bundle.verification["cases"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("XLMForSequenceClassification", {"summary_type": "last"}),
        ("XLMForSequenceClassification", {"summary_type": "mean"}),
        ("XLMForSequenceClassification", {"summary_type": "last", "causal": True}),
        ("XLMForMultipleChoice", {"summary_type": "mean", "n_layers": 1}),
        ("XLMForTokenClassification", {"causal": True, "n_heads": 1}),
        ("XLMWithLMHeadModel", {"n_langs": 1, "gelu_activation": False, "sinusoidal_embeddings": True}),
        ("XLMWithLMHeadModel", {"asm": True, "asm_cutoffs": [50, 120], "tie_word_embeddings": False}),
    ],
    ids=str,
)
def test_every_option(architecture: str, options: dict[str, Any], checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints(architecture, **options)
    assert export(checkpoint, tmp_path / "bundle", layout="packed").verification["status"] == "passed"
    assert verify(tmp_path / "bundle", checkpoint).status == "passed"


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [("token_type_ids", "position_ids"), ("inputs_embeds",)])
def test_optional_inputs(inputs: tuple[str, ...], checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMForSequenceClassification")
    bundle = export(checkpoint, tmp_path / "bundle", inputs=inputs, layout="packed")
    assert bundle.verification["status"] == "passed"
    assert set(inputs) <= {spec.name for spec in bundle.graph().inputs}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("architecture", ["XLMWithLMHeadModel", "XLMForQuestionAnswering"])
def test_half_precision(architecture: str, precision: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    if precision == "bf16":
        pytest.importorskip("openvino", reason="ONNX Runtime has no bf16 kernels on the CPU")
    bundle = export(checkpoints(architecture), tmp_path / "bundle", precision=precision, layout="packed")
    assert bundle.verification["status"] == "passed"


@pytest.mark.slow
def test_generation_without_a_cache(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMWithLMHeadModel", causal=True)
    bundle = export(checkpoint, tmp_path / "bundle", cache=False, layout="packed")
    assert (bundle.task, bundle.verification["status"]) == ("text-generation", "passed")


def test_refusals(checkpoints: Checkpoints, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    causal = checkpoints("XLMWithLMHeadModel", causal=True)
    with pytest.raises(InputError, match="A packed graph keeps no cache"):
        export(causal, tmp_path / "bundle", layout="packed")
    with pytest.raises(InputError, match="no outputs for each layer's hidden states"):
        export(causal, tmp_path / "bundle", layout="packed", task="fill-mask", hidden_states=True)
    with pytest.raises(InputError, match="Unknown layout 'ragged'"):
        export(causal, tmp_path / "bundle", layout="ragged")
    assert main(["export", str(causal), str(tmp_path / "bundle"), "--layout", "packed", "--attentions"]) == 1
    assert "Leave out --layout packed" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_the_code_in_the_docs(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my-bundle").symlink_to(bundles("text-classification-packed"))
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "layouts.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    values: dict[str, Any] = {}
    exec(code, values)
    session = onnxruntime.InferenceSession(bundles("text-classification") / "model.onnx")
    for ids, lang, logits in zip(values["rows"], values["langs"], values["logits"], strict=True):
        row = np.array([ids])
        (alone,) = session.run(
            None, {"input_ids": row, "attention_mask": np.ones_like(row), "langs": np.full_like(row, lang)}
        )
        np.testing.assert_allclose(logits, alone[0], rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


@pytest.mark.slow
def test_operators_do_not_depend_on_the_weights_values() -> None:
    """Folding leaves out biases of zeros, as new models have them; the layers' products keep theirs."""
    config = XLMConfig(vocab_size=40, emb_dim=16, n_layers=2, n_heads=2, n_langs=2, max_position_embeddings=16)
    graph = ExportGraph(
        XLMForSequenceClassification(config).eval(), find_task("XLMForSequenceClassification"), layout="packed"
    )
    model = trace(graph, "fp32", 18)
    biases = [str(value.name) for node in model.graph if node.op_type == "Add" for value in node.inputs if value]
    products = ["attentions.0.qkv_lin", "attentions.1.kv_lin"]
    products += [part.format(i) for i in (0, 1) for part in ("attentions.{}.out_lin", "ffns.{}.lin1", "ffns.{}.lin2")]
    for product in products:
        assert f"model.transformer.{product}.bias" in biases
