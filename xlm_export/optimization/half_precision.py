"""Which normalisations may take half precision: measured, layer by layer.

ONNX Runtime's kernel of SkipLayerNormalization for CUDA rounds the sum to the type of its inputs and normalises that in
float32 (onnxruntime-gpu 1.31.1, measured). In fp16 a sum beyond 65,504 is infinite, and the token's answer NaN, where
the portable graph adds in float32. So the portable graph runs on the inputs of the verification, and what its layers
normalise is rounded here. As other inputs give other numbers, `ROOM` times as large ones and as small ones have to do,
too. A normalisation that this costs too much stays in float32.
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

_TYPES = {"fp16": onnx_ir.DataType.FLOAT16, "bf16": onnx_ir.DataType.BFLOAT16}


def write_probe(source: Path, probe: Path) -> list[Normalization]:
    """Write a portable graph whose further outputs are what its layers normalise, which are returned."""
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
    limit, dtype = SHARE * TOLERANCES[precision].relative_error, _TYPES[precision].numpy()
    errors: dict[str, float] = {}
    for batch in outputs:
        for item in found:
            worst = rounding_error(batch[str(item.total.name)], item, dtype)
            errors[item.name] = float(np.maximum(errors.get(item.name, 0.0), worst))  # NaN stays
    return [name for name, error in errors.items() if not error <= limit]


def rounding_error(totals: np.ndarray, item: Normalization, dtype: np.dtype) -> float:
    """What rounding the sums (…, emb_dim) to `dtype` costs of the largest magnitude of what is made of them."""
    exact = _normalized(totals, item)
    with np.errstate(all="ignore"):
        rounded = [_normalized((totals * scale).astype(dtype), item) for scale in (ROOM, 1 / ROOM)]
        return float(max(np.abs(values - exact).max() for values in rounded) / max(np.abs(exact).max(), 1e-6))


def _normalized(totals: np.ndarray, item: Normalization) -> np.ndarray:
    totals = totals.astype(np.float32)
    deviation = totals - totals.mean(axis=-1, keepdims=True)
    variance = (deviation**2).mean(axis=-1, keepdims=True)
    result: np.ndarray = deviation / np.sqrt(variance + item.epsilon) * array(item.gamma) + array(item.beta)
    return result
