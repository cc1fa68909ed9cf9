"""Which normalisations may run in half precision: measured, layer by layer.

ONNX Runtime's kernel of SkipLayerNormalization for CUDA computes in the type of its inputs, sums included:

    t = x + y + b;  μ = Σ t/n;  σ² = Σ t/n·t - μ²;  (t - μ)/σ·γ + β

In fp16 a token whose mean square is over 65,504 comes out as β, one whose mean is far larger than its deviation loses
its digits, and small numbers lose theirs below 6e-8. So the portable graph runs on the inputs of the verification, and
what is normalised goes through this arithmetic in numpy. As other inputs give larger and smaller numbers, it has to do
with `ROOM` times and with a part of those that were met. A normalisation that it does not do for stays in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir

from xlm_export.onnx_graph.constants import array
from xlm_export.onnx_graph.file import open_model, save
from xlm_export.onnx_graph.widening import widen
from xlm_export.optimization.skip_layer_norm import Normalization, normalizations
from xlm_export.verification.report import TOLERANCES

ROOM = 4.0
"""How many times larger or smaller the numbers may be than those that were met."""
SHARE = 0.25
"""What one normalisation may cost of what its precision may cost in all."""
MOST_TOKENS = 256
"""Of one batch that are looked at, the last ones."""


def write_probe(source: Path, probe: Path) -> list[Normalization]:
    """Write a portable graph whose further outputs are what its layers normalise, which it returns."""
    model = open_model(source)
    found = normalizations(model)
    for item in found:
        item.total.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        item.total.shape = onnx_ir.Shape([None, None, None])
        model.graph.outputs.append(item.total)
    widen(model)
    save(model, probe)
    return found


def too_narrow(
    found: Iterable[Normalization], precision: str, outputs: Iterable[Mapping[str, np.ndarray]]
) -> list[str]:
    """The names of the normalisations that half precision does not do for.

    Args:
        found: those of the probe.
        precision: fp16 or bf16.
        outputs: the probe's, of each batch.
    """
    limit = SHARE * TOLERANCES[precision].relative_error
    left = list(found)
    names = []
    for batch in outputs:
        for item in tuple(left):
            totals = batch[str(item.total.name)]
            totals = totals.reshape(-1, totals.shape[-1])[-MOST_TOKENS:]
            if not all(_error(totals * scale, item, precision) <= limit for scale in (ROOM, 1 / ROOM)):  # NaN is over
                names.append(item.name)
                left.remove(item)
    return names


def _error(totals: np.ndarray, item: Normalization, precision: str) -> float:
    """How far half precision is from float32, to the largest magnitude. `totals` (tokens, emb_dim) float32."""
    gamma, beta = array(item.gamma).astype(np.float32), array(item.beta).astype(np.float32)
    deviation = totals - totals.mean(axis=-1, keepdims=True)
    variance = (deviation**2).mean(axis=-1, keepdims=True)
    exact = deviation / np.sqrt(variance + item.epsilon) * gamma + beta
    ours = normalize(totals, gamma, beta, item.epsilon, onnx_ir.DataType[_TYPES[precision]].numpy())
    return float(np.abs(ours.astype(np.float32) - exact).max() / max(np.abs(exact).max(), 1e-6))


_TYPES = {"fp16": "FLOAT16", "bf16": "BFLOAT16"}


def normalize(
    totals: np.ndarray, gamma: np.ndarray, beta: np.ndarray, epsilon: float, dtype: np.dtype
) -> np.ndarray:
    """The kernel's arithmetic: every result is rounded to `dtype`. `totals` (tokens, emb_dim)."""
    with np.errstate(all="ignore"):
        values, gamma, beta = totals.astype(dtype), gamma.astype(dtype), beta.astype(dtype)
        parts = values * np.asarray(1 / values.shape[-1], dtype)
        mean, square = _sum(parts), _sum(parts * values)
        inverse = (1 / np.sqrt((square - mean * mean + np.asarray(epsilon, dtype)).astype(np.float32))).astype(dtype)
        result: np.ndarray = gamma * (values - mean) * inverse + beta
    return result


def _sum(values: np.ndarray) -> np.ndarray:
    """Over the last axis, pair by pair as the threads of a block do: (tokens, emb_dim) → (tokens, 1)."""
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = np.concatenate((values, np.zeros_like(values[:, :1])), axis=-1)
        values = values[:, ::2] + values[:, 1::2]
    return values
