"""Past and new keys as one tensor, so that TensorRT makes one kernel of a cached graph's attention.

    q·[past_k]ᵀ ‖ q·[k]ᵀ                  →  q·(past_k ‖ k)ᵀ
    w[…, :length]·past_v + w[…, length:]·v  →  w·(past_v ‖ v)

The graph keeps them apart, which saves copying the past where attention is computed operator by operator. TensorRT
fuses the joined form alone, and then needs no memory for scores.
"""

from __future__ import annotations

from typing import Any

import onnx_ir
from onnxscript import rewriter

from xlm_runtime.tasks import PAST

_KEYS = [0, 1, 3, 2]  # (batch, n_heads, tokens, head_dim) → (batch, n_heads, head_dim, tokens)


def concat_past(model: onnx_ir.Model) -> int:
    """Join the keys and values of every layer; returns in how many attentions it did.

    Raises:
        RuntimeError: not in all of them.
    """
    rules = [
        rewriter.RewriteRule(_scores, _joined_scores, _of_past_key),
        rewriter.RewriteRule(_context, _joined_context, _of_past_value),
    ]
    layers = sum(value.name is not None and value.name.startswith(PAST) for value in model.graph.inputs) // 2
    counts = [rule.apply_to_model(model) for rule in rules]
    if counts != [layers, layers]:
        raise RuntimeError(f"Past and new keys were joined {counts[0]} times and values {counts[1]} times in {layers} "
                           "layers.")  # fmt: skip
    return layers


def _scores(op: Any, query: Any, past_key: Any, key: Any) -> Any:
    past = op.MatMul(query, op.Transpose(past_key, perm=_KEYS))
    new = op.MatMul(query, op.Transpose(key, perm=_KEYS))
    return op.Concat(past, new, axis=-1)


def _joined_scores(op: Any, query: Any, past_key: Any, key: Any) -> Any:
    return op.MatMul(query, op.Transpose(op.Concat(past_key, key, axis=2), perm=_KEYS))


def _context(op: Any, weights: Any, first: Any, length: Any, end: Any, axis: Any, step: Any, past_value: Any,
             value: Any) -> Any:  # fmt: skip
    past = op.MatMul(op.Slice(weights, first, length, axis, step), past_value)
    new = op.MatMul(op.Slice(weights, length, end, axis, step), value)
    return op.Add(past, new)


def _joined_context(op: Any, weights: Any, past_value: Any, value: Any, **_: Any) -> Any:
    return op.MatMul(weights, op.Concat(past_value, value, axis=2))


def _of_past_key(context: Any, past_key: Any, **_: Any) -> Any:
    return _is_past(past_key)


def _of_past_value(context: Any, past_value: Any, **_: Any) -> Any:
    return _is_past(past_value)


def _is_past(value: onnx_ir.Value) -> Any:
    result = rewriter.MatchResult()
    if value.name is None or not value.name.startswith(PAST):
        return result.fail("not of the past", value)
    return result
