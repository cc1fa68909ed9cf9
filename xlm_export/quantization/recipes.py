"""The table of recipes. A recipe is one file's function and one row here; all else reads the row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir

from xlm_export.quantization.bf16 import weights_to_bf16
from xlm_export.quantization.int4 import int4_weights
from xlm_export.quantization.int8 import Ranges, quantize_int8
from xlm_runtime.machine import CpuFeatures


@dataclass(frozen=True)
class Job:
    """What a recipe is to do with a model.

    `parts` are the groups of products to quantise (see `Product.group`), and "embeddings"; `ranges` those of every
    product's input, for recipes with `ranges` alone; `cpu` is the machine at hand.
    """

    parts: Sequence[str]
    vocab_size: int
    cpu: CpuFeatures
    ranges: Ranges | None = None


@dataclass(frozen=True)
class Recipe:
    """A way to quantise.

    `summary` is a line for the command line's help; `precision` what the new graph computes in; `target` what it is
    for, None for standard operators; `provider` what it is measured on; `max_divergence` the limit that holds where
    none is given, in nats a choice. `apply` returns the quantised model and may use up the one that it is given;
    `advise` says what to know before the recipe runs on a CPU, or None.

    `parts`: it can leave parts of the model in fp32. `embeddings`: the embeddings are one of the parts. `ranges`: it
    needs the ranges of activations, from calibration.
    """

    summary: str
    precision: str
    target: str | None
    provider: str
    max_divergence: float
    apply: Callable[[onnx_ir.Model, Job], onnx_ir.Model]
    advise: Callable[[CpuFeatures], str | None] = lambda cpu: None
    parts: bool = True
    embeddings: bool = False
    ranges: bool = False

    def advice(self, cpu: CpuFeatures) -> str | None:
        """What to know before the recipe runs on a CPU, or None; nothing is said of a CPU that is not known."""
        return self.advise(cpu) if cpu.known else None


def _int8(model: onnx_ir.Model, job: Job) -> onnx_ir.Model:
    quantize_int8(model, job.parts, job.ranges, vocab_size=job.vocab_size, reduce_range=job.cpu.saturates)
    return model


def _int8_advice(cpu: CpuFeatures) -> str | None:
    if cpu.saturates:
        return (
            f"This CPU has {cpu}, no VNNI: its sums of 8-bit products pass through 16 bits and saturate. Weights "
            "are kept to 7 bits, which is exact but less precise, and the graph may be no faster than fp32 here."
        )
    if not cpu.int8:
        return f"This CPU has {cpu}, no 8-bit dot products: the graph is smaller, and may be slower than fp32."
    return None


def _int4(model: onnx_ir.Model, job: Job) -> onnx_ir.Model:
    return int4_weights(model, job.parts, vocab_size=job.vocab_size, reduce_range=job.cpu.saturates)


def _int4_advice(cpu: CpuFeatures) -> str | None:
    if cpu.int8:
        return None
    return f"This CPU has {cpu}, no 8-bit dot products, with which 4-bit weights are multiplied: expect it slow."


def _bf16(model: onnx_ir.Model, job: Job) -> onnx_ir.Model:
    weights_to_bf16(model)
    return model


def _bf16_advice(cpu: CpuFeatures) -> str | None:
    if cpu.bf16:
        return None
    return f"This CPU has {cpu}, no bf16 products: OpenVINO computes in fp32 here, the file is half as large."


# The limits only catch what is broken or useless: what a task can bear, the caller knows.
RECIPES: dict[str, Recipe] = {
    "int8-dynamic": Recipe(
        summary="weights and activations in int8, scales from each call",
        precision="int8",
        target=None,
        provider="cpu",
        max_divergence=0.05,
        apply=_int8,
        advise=_int8_advice,
        embeddings=True,
    ),
    "int8-static": Recipe(
        summary="weights and activations in int8, scales from calibration",
        precision="int8",
        target=None,
        provider="cpu",
        max_divergence=0.1,
        apply=_int8,
        advise=_int8_advice,
        embeddings=True,
        ranges=True,
    ),
    "int4-weights": Recipe(
        summary="weights in int4, for ONNX Runtime",
        precision="int4",
        target="onnxruntime-cpu",
        provider="cpu",
        max_divergence=0.2,
        apply=_int4,
        advise=_int4_advice,
        embeddings=True,
    ),
    "bf16": Recipe(
        summary="weights in bf16, for OpenVINO",
        precision="bf16",
        target="openvino",
        provider="openvino",
        max_divergence=0.01,
        apply=_bf16,
        advise=_bf16_advice,
        parts=False,
    ),
}
