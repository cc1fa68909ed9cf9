"""GELU and the bias before it in one operator.

    y = x + b;  y · (½ · (erf(y/√2) + 1))  →  BiasGelu(x, b)

Both rules are onnxscript's; the operators are ONNX Runtime's own (com.microsoft).
"""

from __future__ import annotations

import onnx_ir
from onnxscript.rewriter.ort_fusions.bias_gelu import fuse_bias_gelu as fuse_bias
from onnxscript.rewriter.ort_fusions.erfgelu import fuse_erfgelu

from xlm_export.optimization.names import layer_of


def fuse_bias_gelu(model: onnx_ir.Model) -> list[int]:
    """Replace each layer's; returns the layers in which it did."""
    fuse_erfgelu(model)
    fuse_bias(model)
    fused = [node for node in model.graph if node.op_type == "BiasGelu"]
    return [layer for node in fused if (layer := layer_of(node.inputs[1])) is not None]
