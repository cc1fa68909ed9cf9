"""Keys and values that stay where they are.

    k, v = x·Wk + bk, x·Wv + bv
    merge(softmax([split(q)/√d · pastᵀ, split(q)/√d · split(k)ᵀ] + mask) · [past, split(v)])
                                   →  GroupQueryAttention(x·[Wq Wk Wv] + [bq bk bv], past, seqlens_k, total)
    next_input_ids = argmax(logits);  next_position_ids = position_ids[logit_positions] + 1;
    next_seqlens_k = seqlens_k + 1

The operator is ONNX Runtime's own (com.microsoft). It is causal, reads of each row what `seqlens_k` says, and writes
the new keys and values behind it, into the past's own memory where past and present are bound to one address. So
nothing masks any more: rows are padded on the right, and what a row's padding computes is read by no token.

`total` tells the operator a prompt (as long as the call) from a step (as long as the room).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir
from onnx_ir.passes import common
from onnxscript import rewriter

from xlm_export.errors import OptimizationError
from xlm_export.families.table import names_of
from xlm_export.onnx_graph.constants import constant
from xlm_export.onnx_graph.names import WeightNames
from xlm_export.optimization.attention import heads_of
from xlm_runtime.tasks import FED_BACK, NEXT, PAST, PRESENT, SEQLENS_K

_SPLIT, _PAST_KEYS = [0, 2, 1, 3], [0, 1, 3, 2]
_PREFIX = "static_cache"
_MASK = "attention_mask"

# operators that only bring a mask into another shape or type
_OF_MASKS = ("Cast", "Equal", "Not", "Slice", "Unsqueeze")


class FuseCachedAttention(rewriter.RewriteRuleClassBase):
    """The rule. `half`: the softmax is in float32, between casts; `seqlens` and `total` are the operator's inputs."""

    def __init__(self, half: bool, names: WeightNames, seqlens: onnx_ir.Value, total: onnx_ir.Value) -> None:
        super().__init__("FuseCachedAttention")
        self._half, self._names, self._seqlens, self._total = half, names, seqlens, total
        self.layers: list[int] = []
        self.present: dict[str, onnx_ir.Value] = {}
        """output of the graph → what gives it now"""

    def pattern(self, op: Any, q: Any, k: Any, v: Any, shape: Any, root: Any, mask: Any, past_key: Any,
                past_value: Any, merged: Any, a: Any, b: Any, c: Any, d: Any, axis: Any, step: Any) -> Any:  # fmt: skip
        query = op.Div(op.Transpose(op.Reshape(q, shape), perm=_SPLIT), root)
        key = op.Transpose(op.Reshape(k, shape), perm=_SPLIT, _outputs=["key"])
        value = op.Transpose(op.Reshape(v, shape), perm=_SPLIT, _outputs=["value"])
        new = op.MatMul(query, op.Transpose(key, perm=_PAST_KEYS))
        old = op.MatMul(query, op.Transpose(past_key, perm=_PAST_KEYS))
        scores = op.Concat(old, new, axis=-1)
        if self._half:
            weights = op.Cast(op.Softmax(op.Add(op.Cast(scores, to=onnx_ir.DataType.FLOAT), mask), axis=-1))
        else:
            weights = op.Softmax(op.Add(scores, mask), axis=-1)
        context = op.Add(
            op.MatMul(op.Slice(weights, a, b, axis, step), past_value),
            op.MatMul(op.Slice(weights, c, d, axis, step), value),
        )
        return op.Reshape(op.Transpose(context, perm=_SPLIT), merged, _outputs=["attention"])

    def check(self, op: Any, q: Any, k: Any, v: Any, shape: Any, root: Any, key: Any, value: Any, past_key: Any,
              past_value: Any, attention: Any, **_: Any) -> Any:  # fmt: skip
        result = rewriter.MatchResult()
        joined = q.producer()
        if joined is None or joined.op_type != "Split" or tuple(joined.outputs) != (q, k, v):
            return result.fail("queries, keys and values do not come from one product, in this order", q)
        if root.const_value is None or heads_of(shape) is None:
            return result.fail("the scale or the number of heads is no constant", root)
        if self._names.layer_below(attention) is None:
            return result.fail("no layer's weights behind it", attention)
        for past, present in ((past_key, key), (past_value, value)):
            if past.name.replace(PAST, PRESENT, 1) != present.name:
                return result.fail("keys and values are not those of one layer's cache", present)
        return result

    def rewrite(self, op: Any, q: Any, shape: Any, root: Any, key: Any, value: Any, past_key: Any, past_value: Any,
                attention: Any, **_: Any) -> Any:  # fmt: skip
        self.layers.append(self._names.layer_below(attention))  # type: ignore[arg-type]  # checked
        heads = heads_of(shape)
        context, present_key, present_value = op.GroupQueryAttention(
            q.producer().inputs[0],  # (batch, sequence, 3 · emb_dim)
            None,
            None,
            past_key,
            past_value,
            self._seqlens,
            self._total,
            num_heads=heads,
            kv_num_heads=heads,
            scale=1 / float(root.const_value.numpy()),
            _domain="com.microsoft",
            _outputs=3,
        )
        self.present |= {key.name: present_key, value.name: present_value}
        return context


def fuse_static_cache(model: onnx_ir.Model, half: bool) -> list[int]:
    """Replace each layer's attention, give the graph the inputs and outputs of `tasks.static_cache_specs`, and return
    the layers.

    Raises:
        OptimizationError: something but attention reads the mask, so that it cannot go.
    """
    graph = model.graph
    inputs = {str(value.name): value for value in graph.inputs}
    first_past = next(value for name, value in inputs.items() if name.startswith(PAST))
    int32 = onnx_ir.TensorType(onnx_ir.DataType.INT32)
    inputs[SEQLENS_K] = seqlens = onnx_ir.Value(name=SEQLENS_K, type=int32, shape=onnx_ir.Shape(["batch"]))
    total = _total(graph, inputs["input_ids"], first_past)
    rule = FuseCachedAttention(half, names_of(model), seqlens, total)
    # keys and values are outputs too, so what computes them goes only once these come from the operator
    rewriter.RewriteRule(rule.pattern, rule.rewrite, rule.check, remove_nodes=False).apply_to_model(model)
    _without_masks(graph, inputs[_MASK])
    for i, value in enumerate(graph.outputs):
        if (made := rule.present.get(value.name or "")) is not None:
            name, past = value.name, inputs[(value.name or "").replace(PRESENT, PAST, 1)]
            value.name = f"{name}.new"
            made.name, made.type, made.shape = name, past.type, past.shape
            graph.outputs[i] = made
    graph.outputs[:0] = _following(graph, inputs)
    common.RemoveUnusedNodesPass()(model)
    if any(inputs[_MASK].uses()):
        users = ", ".join(sorted({use.node.op_type for use in inputs[_MASK].uses()}))
        raise OptimizationError(
            f"{users} still read {_MASK} behind the pass 'static-cache': the graph is not as this version of "
            "xlm-export writes it. Export the checkpoint again."
        )
    first = [inputs[name] for name in FED_BACK]
    graph.inputs[:] = first + [value for name, value in inputs.items() if name not in (*FED_BACK, _MASK)]
    return rule.layers


def _total(graph: onnx_ir.Graph, input_ids: onnx_ir.Value, past: onnx_ir.Value) -> onnx_ir.Value:
    """(1,) int32: the room where one token comes, else how many come."""
    one = constant(graph, f"{_PREFIX}.one", np.array([1], np.int64))
    sequence = onnx_ir.node("Shape", [input_ids], {"start": 1, "end": 2})
    room = onnx_ir.node("Shape", [past], {"start": 2, "end": 3})
    is_step = onnx_ir.node("Equal", [sequence.outputs[0], one])
    chosen = onnx_ir.node("Where", [is_step.outputs[0], room.outputs[0], sequence.outputs[0]])
    total = onnx_ir.node("Cast", [chosen.outputs[0]], {"to": onnx_ir.DataType.INT32})
    graph.insert_before(graph[0], _named([sequence, room, is_step, chosen, total], "total"))
    return total.outputs[0]


def _following(graph: onnx_ir.Graph, inputs: dict[str, onnx_ir.Value]) -> list[onnx_ir.Value]:
    """The outputs that are the next step's inputs."""
    logits = next(value for value in graph.outputs if value.name == "logits")
    one = constant(graph, f"{_PREFIX}.one", np.array([1], np.int64))
    one32 = constant(graph, f"{_PREFIX}.one32", np.array([1], np.int32))
    flat = constant(graph, f"{_PREFIX}.column", np.array([-1, 1], np.int64))
    nodes = []
    scores = logits
    if logits.dtype == onnx_ir.DataType.BFLOAT16:  # which ArgMax has no kernel for
        nodes.append(onnx_ir.node("Cast", [logits], {"to": onnx_ir.DataType.FLOAT}))
        scores = nodes[0].outputs[0]
    best = onnx_ir.node("ArgMax", [scores], {"axis": -1, "keepdims": 1})
    column = onnx_ir.node("Reshape", [inputs["position_ids"], flat])  # (batch · sequence, 1)
    kept = onnx_ir.node("Gather", [column.outputs[0], inputs["logit_positions"]], {"axis": 0})
    position = onnx_ir.node("Add", [kept.outputs[0], one])
    longer = onnx_ir.node("Add", [inputs[SEQLENS_K], one32])
    nodes += [best, column, kept, position, longer]
    graph.extend(_named(nodes, "next"))
    made = [node.outputs[0] for node in (best, position, longer)]
    for name, value in zip(FED_BACK, made, strict=True):
        value.name, value.type = f"{NEXT}{name}", inputs[name].type
        value.shape = onnx_ir.Shape(["batch"] if name == SEQLENS_K else ["kept", 1])
    return made


def _named(nodes: list[onnx_ir.Node], part: str) -> list[onnx_ir.Node]:
    for i, node in enumerate(nodes):
        node.name = f"{_PREFIX}.{part}/{node.op_type}_{i}"
        node.outputs[0].name = node.name
    return nodes


def _without_masks(graph: onnx_ir.Graph, mask: onnx_ir.Value) -> None:
    """x · mask → x: hidden states are masked against padding, which nothing reads."""
    derived = {mask}
    for node in list(graph):
        first = node.inputs[0] if node.inputs else None
        if node.op_type in _OF_MASKS and first in derived:
            derived.add(node.outputs[0])
        elif node.op_type == "Mul" and len(masks := [value for value in node.inputs if value in derived]) == 1:
            (hidden,) = (value for value in node.inputs if value is not masks[0])
            if hidden is not None:
                onnx_ir.convenience.replace_all_uses_with(node.outputs[0], hidden)
