"""Graphs with a static cache: what the pass leaves of a graph, and its answers beside a reference and the portable one.

`onnx.reference` computes them with a GroupQueryAttention of our own, written from the operator's description, slow and
obvious; so what the graph says does not hang on ONNX Runtime's kernels, of which the CPU's and the GPU's differ.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tests.conftest import Bundles, HalfBundles
from tests.make_checkpoint import make_checkpoint
from tests.sharing import STATIC
from tests.tolerances import RUNTIME_FP32
from xlm_export import export
from xlm_export.optimization import PASSES, optimize
from xlm_export.verification.against_graph import verify_against
from xlm_runtime import InputError
from xlm_runtime.bundle import Bundle
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import TensorSpec

Arrays = dict[str, np.ndarray]
LENGTHS, STEPS, ROOM = (5, 1, 8), 4, 16


class GroupQueryAttention(OpRun):  # type: ignore[misc]
    """Row by row, head by head, token by token."""

    op_domain = "com.microsoft"

    def _run(self, qkv: Any, key: Any, value: Any, past_key: Any, past_value: Any, seqlens: Any, total: Any,
             num_heads: Any = None, kv_num_heads: Any = None, scale: Any = None, **_: Any) -> Any:  # fmt: skip
        assert (key, value, num_heads) == (None, None, kv_num_heads)
        batch, sequence, width = qkv.shape
        size = width // 3 // num_heads
        keys, values = past_key.copy(), past_value.copy()
        context = np.full((batch, sequence, width // 3), np.nan, qkv.dtype)  # what is behind a row's tokens is nothing
        for row in range(batch):
            count = int(seqlens[row]) + 1  # tokens of the row, the new ones included
            first = 0 if int(total[0]) == sequence else count - sequence  # a prompt begins the row
            for head in range(num_heads):
                q, k, v = (qkv[row, :, (part * num_heads + head) * size :][:, :size] for part in range(3))
                for i in range(sequence):
                    if first + i >= count:
                        break
                    keys[row, head, first + i], values[row, head, first + i] = k[i], v[i]
                    scores = keys[row, head, : first + i + 1] @ q[i] * scale
                    weights = np.exp(scores - scores.max())
                    weights /= weights.sum()
                    context[row, i, head * size :][:size] = weights @ values[row, head, : first + i + 1]
        return context, keys, values


def prompts(bundle: Bundle, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(rows, longest + steps) ids and languages."""
    shape = (len(LENGTHS), max(LENGTHS) + STEPS)
    return rng.integers(0, bundle.config.vocab_size, shape), rng.integers(-1, bundle.config.n_langs, shape)


def run_rows(run: Any, bundle: Bundle, ids: np.ndarray, langs: np.ndarray) -> list[Arrays]:
    """A prompt of each row's first tokens and steps behind it, through a graph with a static cache."""
    config, rows = bundle.config, len(ids)
    lengths = np.array(LENGTHS)
    shape = (rows, config.n_heads, ROOM, config.head_dim)
    names = [spec.name for spec in bundle.graphs[1].inputs if spec.name.startswith("past")]
    past = {name: np.full(shape, 7.0, np.float32) for name in names}
    found = []
    for step in range(STEPS + 1):
        columns = np.tile(np.arange(max(LENGTHS)), (rows, 1)) if step == 0 else lengths[:, None] - 1
        last = np.arange(rows) * columns.shape[1] + (lengths - 1 if step == 0 else 0)
        feed = {"input_ids": np.take_along_axis(ids, columns, 1), "langs": np.take_along_axis(langs, columns, 1)}
        feed |= {"position_ids": columns, "logit_positions": last, "seqlens_k": (lengths - 1).astype(np.int32)}
        outputs = run({**feed, **past})
        found.append(outputs)
        past = {name: outputs[name.replace("past_key_values", "present")] for name in past}
        lengths = lengths + 1
    return found


@pytest.fixture(scope="module")
def bundle(bundles: Bundles) -> Bundle:
    return Bundle.load(bundles(STATIC))


def test_the_graph_by_its_description(bundle: Bundle) -> None:
    """Each row equals the portable graph's answer for that row alone, all of it in one pass."""
    rng = np.random.default_rng(0)
    ids, langs = prompts(bundle, rng)
    path = bundle.folder / bundle.graphs[1].file
    evaluator = ReferenceEvaluator(onnx.load(path), new_ops=[GroupQueryAttention])
    names = [spec.name for spec in bundle.graphs[1].outputs]
    by_reference = run_rows(lambda feed: dict(zip(names, evaluator.run(names, feed), strict=True)), bundle, ids, langs)
    by_kernels = run_rows(open_session(path).run, bundle, ids, langs)
    portable = open_session(bundle.folder / bundle.graphs[0].file)
    empty = np.zeros((1, bundle.config.n_heads, 0, bundle.config.head_dim), np.float32)
    past = {spec.name: empty for spec in bundle.graphs[0].inputs if spec.name.startswith("past")}
    for row, length in enumerate(LENGTHS):
        count = length + STEPS
        whole = portable.run({
            "input_ids": ids[row : row + 1, :count], "langs": langs[row : row + 1, :count],
            "attention_mask": np.ones((1, count), np.int64), "position_ids": np.arange(count)[None],
            "logit_positions": np.arange(length - 1, count), **past,
        })  # fmt: skip
        for found in (by_reference, by_kernels):
            logits = np.stack([step["logits"][row] for step in found])
            np.testing.assert_allclose(logits, whole["logits"], atol=RUNTIME_FP32)
            for name in (spec.name for spec in bundle.graphs[1].outputs if spec.name.startswith("present")):
                np.testing.assert_allclose(found[-1][name][row, :, :count], whole[name][0], atol=RUNTIME_FP32)
            assert [int(step["next_input_ids"][row, 0]) for step in found] == logits.argmax(axis=1).tolist()
            assert [int(step["next_position_ids"][row, 0]) for step in found] == [*range(length, count + 1)]
            assert [int(step["next_seqlens_k"][row]) for step in found] == [*range(length, count + 1)]


def test_what_is_left_of_the_graph(bundle: Bundle) -> None:
    portable, static = bundle.graphs
    assert static.has_static_cache
    assert not portable.has_static_cache
    assert static.target == "onnxruntime-cuda"
    proto = onnx.load(bundle.folder / static.file, load_external_data=False).graph
    inputs, outputs = ([item.name for item in items] for items in (proto.input, proto.output))
    assert inputs[:3] == ["input_ids", "position_ids", "seqlens_k"], "in the order of what a step gives"
    assert outputs[:4] == ["next_input_ids", "next_position_ids", "next_seqlens_k", "logits"]
    assert (inputs, outputs) == ([spec.name for spec in static.inputs], [spec.name for spec in static.outputs])
    assert "attention_mask" not in inputs
    found = Counter(node.op_type for node in proto.node)
    assert found["GroupQueryAttention"] == 2
    assert not found.keys() & {"Softmax", "Split", "Slice", "Transpose"}


@pytest.mark.whole
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(precision: str, half_bundles: HalfBundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(half_bundles("text-generation", precision), tmp_path / "bundle"))
    made = optimize(folder, "onnxruntime-cuda")
    assert made.counts == {"qkv": 2, "static-cache": 2, "skip-layer-norm": 4, "bias-gelu": 2}
    assert made.report.status == "passed"
    assert made.graph.has_static_cache
    written = Bundle.load(folder)
    assert written.graph(None, "cuda") == made.graph
    assert not written.graph(None, "cpu").has_static_cache
    nodes = onnx.load(folder / made.graph.file, load_external_data=False).graph.node
    assert Counter(node.op_type for node in nodes)["SkipLayerNormalization"] == 4
    (best,) = (node for node in nodes if node.op_type == "ArgMax")
    assert (best.input[0] == "logits") == (precision == "fp16"), "there is none of bfloat16"


OPTIONS: list[dict[str, Any]] = [
    {"n_heads": 2, "emb_dim": 32, "n_layers": 1, "n_langs": 1, "gelu_activation": False},
    {"asm": True, "asm_cutoffs": [50, 120], "tie_word_embeddings": False, "sinusoidal_embeddings": True},
]


@pytest.mark.whole
@pytest.mark.parametrize(("options", "opset"), [(OPTIONS[0], 23), (OPTIONS[1], 18)])
def test_other_configurations(options: dict[str, Any], opset: int, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMWithLMHeadModel", 3, causal=True, **options)
    export(checkpoint, tmp_path / "bundle", precision="fp16", opset=opset, verify=False)
    made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
    assert made.counts["static-cache"] == options.get("n_layers", 2)
    assert made.report.status == "passed"


def test_graphs_without(bundles: Bundles, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="static-cache: its operator is there in fp16 and bf16 on CUDA, and the graph "
                                         "is in fp32"):  # fmt: skip
        optimize(bundles("text-generation"), "onnxruntime-cuda", passes=("static-cache",))
    with pytest.raises(InputError, match="static-cache: the graph keeps no keys and values"):
        optimize(bundles("fill-mask"), "onnxruntime-cuda", passes=("static-cache",))
    bundle = Bundle.load(bundles("text-generation"))
    absent, half = PASSES["static-cache"].absent, replace(bundle.graphs[0], precision="fp16")
    assert absent(half, bundle.config) is None
    narrow = replace(bundle.config, emb_dim=48)
    assert absent(half, narrow) == "its operator takes heads of 8, 16, … numbers, and the model's have 12"
    attentions = replace(half, outputs=(*half.outputs, TensorSpec("attentions.0", "float", ("batch",))))
    assert "attention weights are outputs" in str(absent(attentions, bundle.config))
    embeds = replace(half, inputs=(TensorSpec("inputs_embeds", "float", ("batch",)), *half.inputs))
    assert "takes embeddings" in str(absent(embeds, bundle.config))


def test_a_wrong_graph_is_found(bundle: Bundle) -> None:
    """Verification compares keys, scores and what is fed back, not the last alone."""
    portable, static = bundle.graphs
    reference, candidate = (open_session(bundle.folder / graph.file) for graph in bundle.graphs)

    class Wrong:
        input_names, output_names = candidate.input_names, candidate.output_names

        def __init__(self, name: str, change: Any) -> None:
            self.name, self.change = name, change

        def run(self, inputs: Arrays) -> Arrays:
            outputs = dict(candidate.run(inputs))
            return outputs | {self.name: self.change(outputs[self.name])}

    assert verify_against(reference, candidate, bundle, portable, static, "cpu").status == "passed"
    for name, change in {
        "next_seqlens_k": lambda value: value + 1,
        "next_position_ids": lambda value: value - 1,
        "next_input_ids": lambda value: (value + 1) % bundle.config.vocab_size,
        "logits": lambda value: value[:, ::-1],
        "present.1.value": lambda value: np.roll(value, 1, axis=2),
    }.items():
        assert verify_against(reference, Wrong(name, change), bundle, portable, static, "cpu").status == "failed", name
