"""GELU and the bias before it in one operator.

    y = x + b;      y · (½ · (erf(y/√2) + 1))  →  BiasGelu(x, b)
    y = Gemm(…, b); y · (½ · (erf(y/√2) + 1))  →  Gelu(y)

The operators are ONNX Runtime's own (com.microsoft). onnxscript's rule for them compares √2 too closely for graphs in
half precision, where the constant has 11 or 8 bits.
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir
from onnxscript import rewriter

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.names import WeightNames

_CONSTANT_BITS = 2**-8


class FuseBiasGelu(rewriter.RewriteRuleClassBase):
    """The rule, for the activation of each layer."""

    def __init__(self, names: WeightNames) -> None:
        super().__init__("FuseBiasGelu")
        self._names = names
        self.layers: list[int] = []

    def pattern(self, op: Any, y: Any, root: Any, one: Any, half: Any) -> Any:
        return op.Mul(y, op.Mul(half, op.Add(op.Erf(op.Div(y, root)), one)))

    def check(self, op: Any, y: Any, root: Any, one: Any, half: Any, **_: Any) -> Any:
        result = rewriter.MatchResult()
        for value, expected in ((root, math.sqrt(2)), (one, 1.0), (half, 0.5)):
            if value.const_value is None or value.const_value.size != 1:
                return result.fail("no constant", value)
            if abs(float(value.const_value.numpy()) / expected - 1) > _CONSTANT_BITS:
                return result.fail(f"not {expected}", value)
        made = y.producer()
        if made is None or made.op_type not in ("Add", "Gemm") or self._names.layer_of(made.inputs[-1]) is None:
            return result.fail("no bias of a layer before it", y)
        return result

    def rewrite(self, op: Any, y: Any, **_: Any) -> Any:
        made = y.producer()
        bias = made.inputs[-1]
        self.layers.append(self._names.layer_of(bias))  # type: ignore[arg-type]  # checked
        if made.op_type == "Gemm":
            return op.Gelu(y, _domain="com.microsoft")
        return op.BiasGelu(made.inputs[0], bias, _domain="com.microsoft")


def fuse_bias_gelu(model: onnx_ir.Model) -> list[int]:
    """Replace each layer's; returns the layers in which it did."""
    rule = FuseBiasGelu(names_of(model))
    rewriter.RewriteRule(rule.pattern, rule.rewrite, rule.check).apply_to_model(model)
    return rule.layers
