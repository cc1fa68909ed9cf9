"""Half-precision graphs where numbers are as large as half precision holds, and where a row has no token at all.

Weights are changed such that what enters a LayerNorm comes near fp16's largest number, 65,504; float32 torch with the
weights that half precision holds is the oracle. bf16 has float32's range, and the same cases hold there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from tests.make_checkpoint import make_checkpoint
from xlm_export import load_checkpoint
from xlm_export.onnx_graph.file import save
from xlm_export.tracing.graph import TORCH_DTYPES, ExportGraph
from xlm_export.tracing.trace import trace
from xlm_export.verification.against_torch import verify_graph
from xlm_export.verification.batches import VerificationCase
from xlm_runtime.providers import verifying_provider
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import find_task

PRECISIONS = ("fp16", pytest.param("bf16", marks=pytest.mark.slow))
FP16_MAX = 65504.0
TOKENS = 24


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> str:
    if request.param == "bf16":
        pytest.importorskip("openvino", reason="ONNX Runtime has no bf16 kernels on the CPU")
    return str(request.param)


def load(folder: Path, architecture: str, n_layers: int = 1, **options: Any) -> Any:
    checkpoint = make_checkpoint(folder / "checkpoint", architecture, n_layers=n_layers, init_std=0.05, **options)
    return load_checkpoint(checkpoint).model


def graph_of(model: Any, precision: str) -> ExportGraph:
    """The model with the weights that `precision` holds, in float32."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(TORCH_DTYPES[precision]).float()
    return ExportGraph(model, find_task(type(model).__name__))


def cases(graph: ExportGraph) -> list[VerificationCase]:
    """A full batch, a padded one, and one with a row of padding alone."""
    rng = np.random.default_rng(0)
    made = []
    for name, lengths in (("full", (TOKENS, TOKENS)), ("padded", (TOKENS, 7)), ("a row of padding", (TOKENS, 0))):
        shape = (2, TOKENS)
        mask = (np.arange(TOKENS) < np.asarray(lengths)[:, None]).astype(np.int64)
        arrays = {
            "input_ids": rng.integers(20, 400, shape),
            "attention_mask": mask,
            "langs": rng.integers(0, 4, shape),
            "p_mask": np.zeros(shape, np.float32),
            "cls_index": np.zeros(2, np.int64),
            "logit_positions": np.arange(5),
        }
        made.append(VerificationCase(name, {spec.name: arrays[spec.name] for spec in graph.inputs}))
    return made


def inside(model: nn.Module, case: VerificationCase, name: str) -> torch.Tensor:
    """What the LayerNorm `name` sums, in float32, for a case."""
    found: list[torch.Tensor] = []
    hook = model.get_submodule(name).register_forward_pre_hook(lambda _, terms: found.append(sum(terms[1:], terms[0])))
    graph = ExportGraph(model, find_task(type(model).__name__))  # type: ignore[arg-type]
    with torch.inference_mode():
        graph({key: torch.from_numpy(value) for key, value in case.inputs.items()})
    hook.remove()
    return found[0]


class Rounding:
    """The graph operator by operator in numpy: every result is rounded to its type, as on a GPU.

    ONNX Runtime's CPU kernels compute a row of half-precision operators in float32, where nothing overflows.
    """

    def __init__(self, path: Path) -> None:
        self._evaluator = ReferenceEvaluator(str(path))

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with np.errstate(all="ignore"):
            outputs = self._evaluator.run(None, inputs)
        return dict(zip(self._evaluator.output_names, outputs, strict=True))


def verified(graph: ExportGraph, precision: str, folder: Path) -> None:
    """The graph in `precision` within that precision's limits of float32 torch, finite everywhere."""
    path = folder / f"{precision}.onnx"
    save(trace(graph, precision, 18), path)
    sessions: dict[str, Any] = {verifying_provider(precision): open_session(path, verifying_provider(precision))}
    if precision == "fp16":
        sessions["every result rounded"] = Rounding(path)
    for name, session in sessions.items():
        report = verify_graph(graph, session, cases(graph), precision, name)
        assert not report.failures, report.table()


def scale(parameter: nn.Parameter, largest: float, of: torch.Tensor) -> None:
    """Multiply a weight such that the largest magnitude in `of`, which it makes, becomes `largest`."""
    parameter.data *= largest / float(of.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1])
def test_residual_sums_beyond_the_range(layer: int, precision: str, tmp_path: Path) -> None:
    """Both terms fit into fp16, and their sum does not, before the second LayerNorm of a layer."""
    model = load(tmp_path, "XLMModel", n_layers=2)
    with torch.no_grad():
        norm = model.layer_norm1[layer]  # gives the first term
        norm.weight.fill_(3000.0)
        norm.bias.fill_(0.0)
        norm.bias[:4] = 33000.0
        ffn = model.ffns[layer]
        ffn.lin1.weight *= 1e-4  # its input is large now
        ffn.lin2.bias.fill_(0.0)
        ffn.lin2.bias[:4] = 33000.0
    graph = graph_of(model, precision)
    total = inside(model, cases(graph)[0], f"layer_norm2.{layer}")
    assert FP16_MAX < float(total.abs().max()) < 2 * FP16_MAX, "the sum alone is beyond fp16"
    verified(graph, precision, tmp_path)


def test_embeddings_beyond_the_range(precision: str, tmp_path: Path) -> None:
    """Words, positions and languages are large, and their sum is beyond fp16."""
    model = load(tmp_path, "XLMModel")
    with torch.no_grad():
        for table in (model.embeddings, model.position_embeddings, model.lang_embeddings):
            table.weight.mul_(30000.0 / float(table.weight.abs().max()))
            table.weight[:, 0] = 25000.0
    graph = graph_of(model, precision)
    assert float(inside(model, cases(graph)[0], "layer_norm_emb").abs().max()) > FP16_MAX
    verified(graph, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("largest", [3e4, 6e4])
def test_hidden_states_near_the_range(largest: float, precision: str, tmp_path: Path) -> None:
    """The last LayerNorm gives numbers up to `largest`, which are the graph's output."""
    model = load(tmp_path, "XLMModel", n_layers=2)
    graph = graph_of(model, precision)
    with torch.no_grad():
        hidden = graph({key: torch.from_numpy(value) for key, value in cases(graph)[0].inputs.items()})[0]
        factor = largest / float(hidden.abs().max()) * 0.98  # half precision may round up
        model.layer_norm2[-1].weight *= factor
        model.layer_norm2[-1].bias *= factor
    verified(graph_of(model, precision), precision, tmp_path)


def test_the_mean_of_large_hidden_states(precision: str, tmp_path: Path) -> None:
    """The sum over tokens is far beyond fp16, the mean is not."""
    model = load(tmp_path, "XLMForSequenceClassification", summary_type="mean")
    with torch.no_grad():
        model.transformer.layer_norm2[-1].weight *= 1000.0
        model.transformer.layer_norm2[-1].bias.fill_(20000.0)
        model.sequence_summary.summary.weight *= 1e-3
    assert 20000.0 * TOKENS > FP16_MAX
    verified(graph_of(model, precision), precision, tmp_path)


def test_padding_with_the_largest_scores_gets_no_weight(precision: str, tmp_path: Path) -> None:
    """Scores of padding up to 6e4, those of real tokens as far below zero: the mask outweighs the difference."""
    model = load(tmp_path, "XLMModel")
    attention = model.attentions[0]
    with torch.no_grad():
        for projection in (attention.q_lin, attention.k_lin):
            projection.weight.zero_()
            projection.bias.zero_()
        head = model.config.emb_dim // model.config.n_heads
        # padding comes into the layer as zeros and has the bias alone as its key; real tokens, whose first coordinate
        # is 1, have the opposite
        model.layer_norm_emb.weight.data[0], model.layer_norm_emb.bias.data[0] = 0.0, 1.0
        for i in range(model.config.n_heads):
            attention.q_lin.bias[i * head] = 240.0
            attention.k_lin.bias[i * head] = 240.0 * head**0.5
            attention.k_lin.weight[i * head, 0] = -480.0 * head**0.5
    graph = graph_of(model, precision)
    assert FP16_MAX / 2 < 240.0 * 240.0, "a score that half of the range does not outweigh"
    verified(graph, precision, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["XLMForQuestionAnswering", "XLMWithLMHeadModel"])
def test_heads_over_large_hidden_states(architecture: str, precision: str, tmp_path: Path) -> None:
    """Beam probabilities and logits over hidden states up to 3e4, with a row of padding among them."""
    model = load(tmp_path, architecture, tie_word_embeddings=False)
    graph = graph_of(model, precision)
    body = model.transformer
    with torch.no_grad():
        state = inside(model, cases(graph)[0], "transformer.layer_norm2.0")
        normal = (state - state.mean(-1, keepdim=True)) / state.std(-1, keepdim=True, unbiased=False)
        norm = body.layer_norm2[-1]
        scale(norm.weight, 3e4, normal * norm.weight)
        heads = [module for name, module in model.named_modules() if isinstance(module, nn.Linear) and "transformer" not
                 in name]  # fmt: skip
        for linear in heads:
            linear.weight *= 1e-4
    verified(graph_of(model, precision), precision, tmp_path)
