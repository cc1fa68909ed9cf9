"""How PyTorch operators become ONNX operators where the exporter's own way is not ours."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir
import torch
from onnxscript import opset18

op: Any = opset18  # typed for eager values; here its functions record nodes

_HALF = (onnx_ir.DataType.FLOAT16, onnx_ir.DataType.BFLOAT16)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(query/√d · keyᵀ + mask) · value, in plain operators that every engine knows how to fuse.

    The query is scaled before the product, as XLM does it; the mask, which is float32, is added and the softmax runs
    in float32 in every precision. All other tensors are (batch, n_heads, sequence, head_dim).
    """
    if is_causal or enable_gqa or dropout_p or scale is not None or attn_mask is None:
        raise ValueError("Only attention with an additive mask and XLM's scaling is translated.")
    dtype = query.dtype
    root = op.Constant(value=onnx_ir.tensor(math.sqrt(query.shape[-1]), dtype=dtype))
    scores = op.MatMul(op.Div(query, root), op.Transpose(key, perm=[0, 1, 3, 2]))
    if dtype not in _HALF:
        return op.MatMul(op.Softmax(op.Add(scores, attn_mask), axis=-1), value)
    scores = op.Add(op.Cast(scores, to=onnx_ir.DataType.FLOAT), attn_mask)
    return op.MatMul(op.Cast(op.Softmax(scores, axis=-1), to=dtype), value)


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """PyTorch operator → function that writes its ONNX nodes, for `torch.onnx.export`."""
    return {torch.ops.aten.scaled_dot_product_attention.default: scaled_dot_product_attention}
