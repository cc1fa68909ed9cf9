"""ONNX Runtime's TensorRT provider: which profiles it builds engines for, and its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from xlm_runtime.bundle import Graph
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.planning import Axis, Profile, Shape, Tensor, read_profile

Ranges = Mapping[str, tuple[Shape, Shape, Shape]]

# Choices of a question, and positions with logits in one call.
_MOST_CHOICES = 8
_MOST_KEPT = 1024

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


def plan_profiles(
    graph: Graph, config: XLMConfig, largest: Sequence[tuple[int, int]]
) -> tuple[tuple[Profile, ...], list[Ranges]]:
    """A profile for every pair of a largest batch and sequence, and of a graph with a cache one more for every batch,
    which takes one token with a past; and their shapes, input → (smallest, optimal, largest).

    Raises:
        EngineError: a precision that the provider does not take.
    """
    if graph.precision not in _DTYPES:
        raise EngineError(f"provider='tensorrt-ep' takes graphs in {', '.join(_DTYPES)}, not in {graph.precision}; "
                          "choose another precision, or provider='cuda'.")  # fmt: skip
    longest = config.max_position_embeddings
    tensors = [_tensor(spec.name, spec.dtype, spec.axes, graph, config) for spec in graph.inputs]
    past = any("past_sequence" in tensor.axes for tensor in tensors)
    sizes = [(f"{batch}x{min(sequence, longest)}", batch, min(sequence, longest)) for batch, sequence in largest]
    if past:
        sizes += [(f"{batch}x1, decoding", batch, 1) for batch in sorted({batch for batch, _ in largest})]
    profiles: list[Profile] = []
    shapes: list[Ranges] = []
    for name, batch, sequence in dict.fromkeys(sizes):
        kept = min(batch * sequence, _MOST_KEPT)
        low = {"batch": 1, "sequence": 1, "num_choices": 1, "kept": 1, "past_sequence": 0}
        high = {"batch": batch, "sequence": sequence, "num_choices": _MOST_CHOICES, "kept": kept}
        best = high | {"kept": min(batch, kept), "past_sequence": longest // 2 if sequence == 1 else 0}
        high |= {"past_sequence": longest}
        ranges = {tensor.name: (tensor.shape(low), tensor.shape(best), tensor.shape(high)) for tensor in tensors}
        profiles.append(read_profile(len(profiles), name, tensors, ranges))
        shapes.append(ranges)
    return tuple(profiles), shapes


def provider_options(graph: Graph, shapes: Sequence[Ranges], cache: Path) -> dict[str, str]:
    """Options of the provider: profiles, the engine cache and the graph's precision.

    Args:
        cache: folder for the engines that it builds.
    """
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": str(int(graph.precision == "fp16")),
        "trt_bf16_enable": str(int(graph.precision == "bf16")),
    }
    # an input's shapes of all profiles stand one after the other: "a:1x8,a:1x16,b:1x8,b:1x16"
    for i, which in enumerate(("min", "opt", "max")):
        listed = [f"{name}:{'x'.join(map(str, ranges[name][i]))}" for name in shapes[0] for ranges in shapes]
        options[f"trt_profile_{which}_shapes"] = ",".join(listed)
    return options


def _tensor(name: str, dtype: str, axes: tuple[str, ...], graph: Graph, config: XLMConfig) -> Tensor:
    """Axes that are options of the configuration become numbers."""
    sizes: list[Axis] = [int(getattr(config, axis)) if hasattr(config, axis) else axis for axis in axes]
    return Tensor(name, _DTYPES[graph.precision] if dtype == "float" else dtype, tuple(sizes))
