"""The residual sum and its normalisation in one operator.

    LayerNormalization(x + y, γ, β)  →  SkipLayerNormalization(x, y, γ, β)

The operator is ONNX Runtime's own (com.microsoft).
"""

from __future__ import annotations

from typing import Any

import onnx_ir
from onnxscript import rewriter

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.names import WeightNames


class FuseSkipLayerNorm(rewriter.RewriteRuleClassBase):
    """The rule, for the two normalisations of each layer; that of the embeddings adds other things."""

    def __init__(self, names: WeightNames) -> None:
        super().__init__("FuseSkipLayerNorm")
        self._names = names
        self.layers: list[int] = []

    def pattern(self, op: Any, x: Any, y: Any, gamma: Any, beta: Any) -> Any:
        total = op.Add(x, y, _outputs=["total"])
        return op.LayerNormalization(total, gamma, beta, _allow_other_attributes=True, _outputs=["normed"])

    def check(self, op: Any, total: Any, normed: Any, gamma: Any, **_: Any) -> Any:
        result = rewriter.MatchResult()
        if self._names.layer_of(gamma) is None:
            return result.fail("not a layer's normalisation", gamma)
        attributes = normed.producer().attributes
        if attributes.get_int("axis", -1) != -1 or attributes.get_int("stash_type", 1) != 1:
            return result.fail("another axis or type than the operator's", normed)
        return result

    def rewrite(self, op: Any, x: Any, y: Any, gamma: Any, beta: Any, normed: Any, **_: Any) -> Any:
        self.layers.append(self._names.layer_of(gamma))  # type: ignore[arg-type]  # checked
        epsilon = normed.producer().attributes.get_float("epsilon", 1e-5)
        return op.SkipLayerNormalization(x, y, gamma, beta, epsilon=epsilon, _domain="com.microsoft")


def fuse_skip_layer_norm(model: onnx_ir.Model) -> list[int]:
    """Replace each layer's two; returns a layer for each replacement."""
    rule = FuseSkipLayerNorm(names_of(model))
    rewriter.RewriteRule(rule.pattern, rule.rewrite, rule.check).apply_to_model(model)
    return rule.layers
