"""Which passes a target gets, how often each has to match, and why some graphs have nothing for one.

The CPU's choice is measured (docs/optimization.md): there ONNX Runtime's operators for attention and for a sum with
its normalisation are not faster than what they replace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir
from onnx_ir.passes import common

from xlm_export.errors import OptimizationError
from xlm_export.families.table import export_family
from xlm_export.optimization.attention import fuse_attention
from xlm_export.optimization.gelu import fuse_bias_gelu
from xlm_export.optimization.packed_attention import fuse_packed_attention
from xlm_export.optimization.qkv import fuse_qkv
from xlm_export.optimization.skip_layer_norm import fuse_skip_layer_norm
from xlm_export.optimization.static_cache import fuse_static_cache
from xlm_runtime.bundle import Graph
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.tasks import Task, cuda_packed_inputs, static_cache_specs

_STATIC_CACHE = ("fp16", "bf16")

Kept = Mapping[str, int]
"""Normalisations that stay in float32 in a graph in half precision, by name, and the layer of each."""


def _as_it_was(graph: Graph, task: Task, config: XLMConfig) -> Graph:
    return graph


@dataclass(frozen=True)
class Pass:
    """A pass.

    `apply` changes a model, given whether it computes in half precision and what stays in float32 there, and returns a
    layer for each match; `per_layer` is how often it matches in each layer, unless the family says less; `absent` tells
    why a graph has nothing for it, or None. `keeps` is set for the pass that leaves alone what stays in float32.
    `entry` gives the graph's entry as it is behind the pass, for one that changes inputs or outputs.
    """

    apply: Callable[[onnx_ir.Model, bool, Kept], list[int]]
    per_layer: int
    absent: Callable[[Graph, XLMConfig], str | None]
    keeps: bool = False
    entry: Callable[[Graph, Task, XLMConfig], Graph] = _as_it_was


def _no_attention(graph: Graph, config: XLMConfig) -> str | None:
    if any(spec.name.startswith("attentions.") for spec in graph.outputs):
        return "the attention weights are outputs of the graph"
    if graph.has_cache:
        return "past and new keys are two inputs of attention"
    if graph.is_packed:
        return "the packed layout gathers heads one by one, and has 'packed-attention'"
    return None


def _no_packed_attention(graph: Graph, config: XLMConfig) -> str | None:
    if not graph.is_packed:
        return "the graph is padded, and has 'attention'"
    if config.causal:
        return "the checkpoint is causal, and the operator lets every token see its whole row"
    return "its products are in int8 already, and have their columns' scales" if graph.precision == "int8" else None


def _with_row_inputs(graph: Graph, task: Task, config: XLMConfig) -> Graph:
    return replace(graph, inputs=cuda_packed_inputs(task, config, graph.inputs))


def _no_products(graph: Graph, config: XLMConfig) -> str | None:
    if graph.is_packed:
        return "the packed layout has joined the products already"
    return "its products are in int8 already, and share their quantised input" if graph.precision == "int8" else None


def _no_gelu(graph: Graph, config: XLMConfig) -> str | None:
    return None if config.gelu_activation else "the checkpoint's activation is ReLU"


def _always(graph: Graph, config: XLMConfig) -> str | None:
    return None


def _no_static_cache(graph: Graph, config: XLMConfig) -> str | None:
    if not graph.has_cache:
        return "the graph keeps no keys and values"
    if graph.precision not in _STATIC_CACHE:
        return f"its operator is there in {' and '.join(_STATIC_CACHE)} on CUDA, and the graph is in {graph.precision}"
    if config.head_dim % 8:
        return f"its operator takes heads of 8, 16, … numbers, and the model's have {config.head_dim}"
    if any(spec.name == "inputs_embeds" for spec in graph.inputs):
        return "the graph takes embeddings, and the next token is an id"
    if any(spec.name.startswith(("attentions.", "hidden_states.")) for spec in graph.outputs):
        return "hidden states or attention weights are outputs of the graph, which padding behind a row would change"
    return None


def _with_static_cache(graph: Graph, task: Task, config: XLMConfig) -> Graph:
    inputs, outputs = static_cache_specs(graph.inputs, graph.outputs)
    return replace(graph, inputs=inputs, outputs=outputs)


# In the order in which they run: attention is found by the products that QKV joins, and where it reads a cache by the
# joined ones; normalisations are found once no mask is between them and the layers.
PASSES = {
    "attention": Pass(lambda model, half, kept: fuse_attention(model, half), 1, _no_attention),
    "packed-attention": Pass(
        lambda model, half, kept: fuse_packed_attention(model, half), 1, _no_packed_attention, entry=_with_row_inputs
    ),
    "qkv": Pass(lambda model, half, kept: fuse_qkv(model), 1, _no_products),
    "static-cache": Pass(
        lambda model, half, kept: fuse_static_cache(model, half), 1, _no_static_cache, entry=_with_static_cache
    ),
    "skip-layer-norm": Pass(lambda model, half, kept: fuse_skip_layer_norm(model, kept), 2, _always, keeps=True),
    "bias-gelu": Pass(lambda model, half, kept: fuse_bias_gelu(model), 1, _no_gelu),
}

TARGETS: dict[str, tuple[str, ...]] = {
    "onnxruntime-cpu": ("bias-gelu",),
    "onnxruntime-cuda": ("attention", "packed-attention", "qkv", "static-cache", "skip-layer-norm", "bias-gelu"),
}


def chosen_passes(graph: Graph, config: XLMConfig, target: str, asked: Sequence[str] | None) -> dict[str, Pass]:
    """The passes for a graph, by name: those `asked` for, else the target's without what the graph has nothing for.

    Raises:
        InputError: an unknown target or pass, a pass that the graph has nothing for, or no pass at all.
    """
    if target not in TARGETS:
        raise InputError(f"Unknown target '{target}'; expected one of {', '.join(TARGETS)}.")
    for name in asked or ():
        if name not in PASSES:
            raise InputError(f"Unknown pass '{name}'; expected some of {', '.join(PASSES)}.")
    of_family = export_family(config).absent_passes(config)
    reasons = {name: of_family.get(name) or PASSES[name].absent(graph, config) for name in asked or TARGETS[target]}
    absent = {name: reason for name, reason in reasons.items() if reason is not None}
    if absent and (asked or len(absent) == len(reasons)):
        why = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        raise InputError(
            f"The graph '{graph.file}' has nothing for these passes: {why}. Use the portable graph as it is, or choose "
            f"others with --passes, out of {', '.join(PASSES)}."
        )
    return {name: item for name, item in PASSES.items() if name in reasons and name not in absent}


def apply_passes(
    model: onnx_ir.Model, passes: dict[str, Pass], config: XLMConfig, half: bool, kept: Kept
) -> dict[str, int]:
    """Change the model in place; returns how often each pass matched.

    Args:
        half: whether the model computes in half precision.
        kept: what stays in float32 there.

    Raises:
        OptimizationError: a pass did not match in a layer as often as it has to. The model is then of no use.
    """
    counts = {}
    fewest = export_family(config).fewest_matches(config)
    for name, item in passes.items():
        matched = Counter(item.apply(model, half, kept))
        left = Counter(kept.values() if item.keeps else ())
        for layer in range(config.n_layers):
            if not fewest.get(name, item.per_layer) <= matched[layer] + left[layer] <= item.per_layer:
                raise OptimizationError(
                    f"The pass '{name}' matched {matched[layer]} times in layer {layer}, expected "
                    f"{item.per_layer - left[layer]}: the graph is not as this version of xlm-export writes it. Export "
                    "the checkpoint again."
                )
        counts[name] = matched.total()
    common.RemoveUnusedNodesPass()(model)
    for node in model.graph:
        node.metadata_props.clear()  # where in the source a node comes from, larger than all else beside the weights
    model.opset_imports.setdefault("com.microsoft", 1)
    return counts
