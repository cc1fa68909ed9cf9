"""Attention in one operator.

    merge(softmax(split(q)/√d · split(k)ᵀ + mask) · split(v))  →  MultiHeadAttention(q, k, v, mask)

The operator is ONNX Runtime's own (com.microsoft). It wants the mask over every query, (batch, 1, queries, keys), so
the mask is expanded, once for all layers that share it.
"""

from __future__ import annotations

from typing import Any

import onnx_ir
from onnx_ir.passes import common
from onnxscript import rewriter

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.names import WeightNames

_SPLIT, _KEYS = [0, 2, 1, 3], [0, 2, 3, 1]

# What half precision adds to the score of a padded token: e to this is 0, and score and it have a finite sum.
_CLOSED = -16384.0


class FuseAttention(rewriter.RewriteRuleClassBase):
    """The rule. `half`: the graph computes in half precision, mask and softmax between casts to float32 and back."""

    def __init__(self, half: bool, names: WeightNames) -> None:
        super().__init__("FuseAttention")
        self._names = names
        self._half = half
        self.layers: list[int] = []

    def pattern(self, op: Any, q: Any, k: Any, v: Any, q_shape: Any, kv_shape: Any, root: Any, mask: Any,
                merged: Any) -> Any:  # fmt: skip
        query = op.Div(op.Transpose(op.Reshape(q, q_shape), perm=_SPLIT), root)
        key = op.Transpose(op.Reshape(k, kv_shape), perm=_KEYS)
        value = op.Transpose(op.Reshape(v, kv_shape), perm=_SPLIT)
        scores = op.MatMul(query, key)
        if self._half:
            weights = op.Cast(op.Softmax(op.Add(op.Cast(scores, to=onnx_ir.DataType.FLOAT), mask), axis=-1))
        else:
            weights = op.Softmax(op.Add(scores, mask), axis=-1)
        context = op.Transpose(op.MatMul(weights, value), perm=_SPLIT)
        return op.Reshape(context, merged, _outputs=["attention"])

    def check(self, op: Any, root: Any, q_shape: Any, attention: Any, **_: Any) -> Any:
        result = rewriter.MatchResult()
        if root.const_value is None:
            return result.fail("the scale is no constant", root)
        if heads_of(q_shape) is None:
            return result.fail("the number of heads is no constant", q_shape)
        if self._names.layer_below(attention) is None:
            return result.fail("no layer's weights behind it", attention)
        return result

    def rewrite(self, op: Any, q: Any, k: Any, v: Any, q_shape: Any, root: Any, mask: Any, attention: Any,
                **_: Any) -> Any:  # fmt: skip
        self.layers.append(self._names.layer_below(attention))  # type: ignore[arg-type]  # checked
        if self._half:  # the mask is in float32, and its numbers are infinite in half precision
            mask = op.CastLike(op.Max(mask, op.Constant(value_float=_CLOSED)), q)
        one = op.Constant(value_ints=[1])
        queries = op.Slice(q_shape, one, op.Constant(value_ints=[2]), op.Constant(value_ints=[0]))
        bias = op.Expand(mask, op.Concat(one, one, queries, one, axis=0))  # (batch, 1, queries, keys)
        return op.MultiHeadAttention(
            q,
            k,
            v,
            None,
            None,
            bias,
            num_heads=heads_of(q_shape),
            scale=1 / float(root.const_value.numpy()),
            _domain="com.microsoft",
        )


def fuse_attention(model: onnx_ir.Model, half: bool) -> list[int]:
    """Replace each layer's attention; returns the layers in which it did."""
    rule = FuseAttention(half, names_of(model))
    rewriter.RewriteRule(rule.pattern, rule.rewrite, rule.check).apply_to_model(model)
    common.CommonSubexpressionEliminationPass()(model)
    return rule.layers


def heads_of(shape: onnx_ir.Value) -> int | None:
    """n_heads out of the shape (batch, sequence, n_heads, head_dim) that a Reshape is given."""
    if shape.const_value is not None:
        return int(shape.const_value.numpy()[2])
    made = shape.producer()
    if made is None or made.op_type != "Concat" or len(made.inputs) != 4:
        return None
    heads = made.inputs[2]
    return None if heads is None or heads.const_value is None else int(heads.const_value.numpy()[0])
