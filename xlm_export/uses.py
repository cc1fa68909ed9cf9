"""What a bundle may be for, and what follows: layout, recipe, target, engine and providers, in one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from xlm_runtime.errors import InputError


@dataclass(frozen=True)
class Use:
    """A row.

    Args:
        summary: a line for the command line's help.
        layout: of the export; None for packed, and padded where the graph keeps a cache.
        layout_reason: why.
        precision: of the export.
        recipes: quantise by the first of these that is within its limit; none: do not quantise.
        cached_recipes: the same for graphs with a cache.
        smallest: make a graph by each recipe, and take the smallest that is within its limit.
        target: of a further graph that is rewritten for one provider; None for none.
        engine: build a TensorRT engine, where this machine can.
        providers: what the bundle is made for, the best first, by the recipe of its graph (None: by none).
    """

    summary: str
    layout: str | None
    layout_reason: str
    precision: str = "fp32"
    recipes: tuple[str, ...] = ()
    cached_recipes: tuple[str, ...] = ()
    smallest: bool = False
    target: str | None = None
    engine: bool = False
    providers: Mapping[str | None, tuple[str, ...]] | None = None


# OpenVINO is the fastest on packed int8-static graphs, has no fast kernels for int8-dynamic and none for int4
# (benchmarks/NOTES.md).
_ON_CPU: Mapping[str | None, tuple[str, ...]] = {
    "int8-static": ("openvino", "cpu"),
    "int8-dynamic": ("cpu", "openvino"),
    "int4-weights": ("cpu",),
}
_NO_PADDING = "no padding is computed, and in the last layer only what the head reads"

USES: dict[str, Use] = {
    "portable": Use(
        summary="standard operators in fp32, for any provider",
        layout="padded",
        layout_reason="every program and provider takes it",
    ),
    "cpu": Use(
        summary="fast on a CPU, in int8",
        layout=None,
        layout_reason=_NO_PADDING,
        recipes=("int8-static", "int8-dynamic"),
        cached_recipes=("int8-dynamic", "int8-static"),  # a step of generation has few values to fix ranges for
        target="onnxruntime-cpu",
        providers=_ON_CPU,
    ),
    "cpu-small": Use(
        summary="the smallest on a CPU that is within its limit",
        layout=None,
        layout_reason=_NO_PADDING,
        recipes=("int4-weights", "int8-static"),
        cached_recipes=("int4-weights", "int8-dynamic"),
        smallest=True,
        providers=_ON_CPU,
    ),
    "gpu": Use(
        summary="ONNX Runtime on an NVIDIA GPU, in fp16",
        layout=None,
        layout_reason=_NO_PADDING,
        precision="fp16",
        target="onnxruntime-cuda",
        providers={None: ("cuda",)},
    ),
    "tensorrt": Use(
        summary="TensorRT on an NVIDIA GPU, in fp16",
        layout="padded",
        layout_reason="engines are built from padded graphs",
        precision="fp16",
        engine=True,
        providers={None: ("tensorrt", "cuda")},
    ),
}


def find_use(name: str) -> Use:
    """The row of a use.

    Raises:
        InputError: there is none of this name.
    """
    if name not in USES:
        raise InputError(f"Unknown use '{name}'; expected one of {', '.join(USES)}.")
    return USES[name]
