"""The table of recipes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A way to quantise.

    `engine` is the one that the graph is for, None for standard operators; `provider` what it is measured on;
    `max_divergence` is the limit that holds where none is given, in nats a choice.
    """

    precision: str
    engine: str | None
    provider: str
    max_divergence: float


# The limits only catch what is broken or useless: what a task can bear, the caller knows.
RECIPES = {
    "int8-dynamic": Recipe("int8", None, "cpu", 0.05),
    "int8-static": Recipe("int8", None, "cpu", 0.1),
    "int4-weights": Recipe("int4", "onnxruntime-cpu", "cpu", 0.2),
    "bf16": Recipe("bf16", "openvino", "openvino", 0.01),
}
