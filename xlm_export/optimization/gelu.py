"""GELU and the bias before it in one operator.

    y = x + b;  y · (½ · (erf(y/√2) + 1))  →  BiasGelu(x, b)

The operator is ONNX Runtime's own (com.microsoft). onnxscript's rule for it compares √2 too closely for graphs in half
precision, where the constant has 11 or 8 bits.
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir
from onnxscript import rewriter

from xlm_export.optimization.names import layer_of

_CONSTANT_BITS = 2**-8


class FuseBiasGelu(rewriter.RewriteRuleClassBase):
    """The rule, for the activation of each layer."""

    def __init__(self) -> None:
        super().__init__("FuseBiasGelu")
        self.layers: list[int] = []

    def pattern(self, op: Any, x: Any, bias: Any, root: Any, one: Any, half: Any) -> Any:
        y = op.Add(x, bias)
        return op.Mul(y, op.Mul(half, op.Add(op.Erf(op.Div(y, root)), one)))

    def check(self, op: Any, bias: Any, root: Any, one: Any, half: Any, **_: Any) -> Any:
        result = rewriter.MatchResult()
        for value, expected in ((root, math.sqrt(2)), (one, 1.0), (half, 0.5)):
            if value.const_value is None or value.const_value.size != 1:
                return result.fail("no constant", value)
            if abs(float(value.const_value.numpy()) / expected - 1) > _CONSTANT_BITS:
                return result.fail(f"not {expected}", value)
        if layer_of(bias) is None:
            return result.fail("no bias of a layer", bias)
        return result

    def rewrite(self, op: Any, x: Any, bias: Any, **_: Any) -> Any:
        self.layers.append(layer_of(bias))  # type: ignore[arg-type]  # checked
        return op.BiasGelu(x, bias, _domain="com.microsoft")


def fuse_bias_gelu(model: onnx_ir.Model) -> list[int]:
    """Replace each layer's; returns the layers in which it did."""
    rule = FuseBiasGelu()
    rewriter.RewriteRule(rule.pattern, rule.rewrite, rule.check).apply_to_model(model)
    return rule.layers
