"""Attention of the packed layout in one operator.

    [q k v] = x·[Wq Wk Wv] + b;  merge(softmax(pack(q)/√d · pack(k)ᵀ + mask) · pack(v))
    →  PackedMultiHeadAttention(reshape(x·W), b, token_offset, cumulative_sequence_length)

W has the columns of [Wq Wk Wv] in the order (head, q/k/v, head_dim); the operator's b has the biases one behind the
other all the same. In the last layer the portable graph computes queries of kept tokens alone; here all tokens ask, and
the kept ones are gathered right behind.

The operator is ONNX Runtime's own (com.microsoft). It has kernels for fp32 and fp16: bf16 goes through float32, whose
range it has. A row is known by its bounds, so the mask and the packs' indices go, and with them the graph's inputs that
nothing else reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
from onnx_ir.passes import common
from onnxscript import rewriter

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.constants import array, constant
from xlm_export.onnx_graph.names import WeightNames
from xlm_runtime.tasks import ROW_INPUTS

_CONSTANT_BITS = 2**-8  # of √d in half precision
_REPLACED = ("segment_ids", "token_index", "padded_index", "kept_token_index", "kept_padded_index")
_SAME_SHAPE = {"segment_ids": "padded_index", "kept_token_index": "kept_index"}


@dataclass(frozen=True)
class _Heads:
    """A part of queries, keys or values before it was spread to packs: the product (…, parts · n_heads · head_dim)."""

    input: onnx_ir.Value
    weight: onnx_ir.Value
    bias: onnx_ir.Value
    head_dim: int


class FusePackedAttention(rewriter.RewriteRuleClassBase):
    """The rule. `half`: the portable graph computes mask and softmax between casts to float32 and back."""

    def __init__(self, model: onnx_ir.Model, half: bool) -> None:
        super().__init__("FusePackedAttention")
        self._graph, self._half, self._names = model.graph, half, names_of(model)
        self._rows = _row_inputs(model.graph)
        self._products: tuple[_Heads, ...] = ()  # of the match that was checked last
        self.layers: list[int] = []

    def pattern(self, op: Any, q: Any, k: Any, v: Any, q_index: Any, k_index: Any, v_index: Any, root: Any, mask: Any,
                pieces: Any, index: Any, merged: Any) -> Any:  # fmt: skip
        query = op.Div(op.Gather(q, q_index), root)
        key = op.Transpose(op.Gather(k, k_index), perm=[0, 1, 3, 2])
        scores = op.MatMul(query, key)
        if self._half:
            weights = op.Cast(op.Softmax(op.Add(op.Cast(scores, to=onnx_ir.DataType.FLOAT), mask), axis=-1))
        else:
            weights = op.Softmax(op.Add(scores, mask), axis=-1)
        context = op.MatMul(weights, op.Gather(v, v_index))  # (packs, n_heads, longest, head_dim)
        return op.Reshape(op.Gather(op.Reshape(context, pieces), index), merged, _outputs=["attention"])

    def check(self, op: Any, q: Any, k: Any, v: Any, root: Any, **_: Any) -> Any:
        result = rewriter.MatchResult()
        query, key = _heads(q, self._names), _heads(k, self._names)
        if query is None or key is None or v is not k:
            return result.fail("no product of a layer before it", q)
        scale = math.sqrt(key.head_dim)
        if root.const_value is None or abs(float(root.const_value.numpy()) / scale - 1) > _CONSTANT_BITS:
            return result.fail(f"the scale is not that of heads of {key.head_dim}", root)
        if q is not k and _kept(query.input, key.input) is None:
            return result.fail("the queries' tokens are none of the keys'", q)
        self._products = (key,) if q is k else (query, key)
        return result

    def rewrite(self, op: Any, **_: Any) -> Any:
        first, last = self._products[0], self._products[-1]
        weight, bias, n_heads = self._joined()
        shape = constant(self._graph, f"packed_heads.{n_heads}", np.array([-1, n_heads, 3, last.head_dim], np.int64))
        heads = op.Reshape(op.MatMul(last.input, weight), shape)
        widened = bias.dtype != last.bias.dtype
        if widened:
            heads = op.Cast(heads, to=bias.dtype)
        attention = op.PackedMultiHeadAttention(
            heads, None, None, bias, *self._rows,
            num_heads=n_heads, scale=1 / math.sqrt(last.head_dim), _domain="com.microsoft",
        )  # fmt: skip
        if widened:
            attention = op.Cast(attention, to=last.bias.dtype)
        if first is not last:
            attention = op.Gather(attention, _kept(first.input, last.input), axis=0)
        self.layers.append(self._names.layer_of(last.bias))  # type: ignore[arg-type]  # checked
        return attention

    def _joined(self) -> tuple[onnx_ir.Value, onnx_ir.Value, int]:
        """The weight with its columns by heads, the bias as the operator has it, and the number of heads."""
        weight = np.concatenate([array(product.weight) for product in self._products], axis=1)  # (emb_dim, 3 · emb_dim)
        bias = np.concatenate([array(product.bias) for product in self._products])
        head_dim = self._products[-1].head_dim
        n_heads = weight.shape[1] // (3 * head_dim)
        by_heads = weight.reshape(-1, 3, n_heads, head_dim).swapaxes(1, 2).reshape(weight.shape)
        if bias.dtype not in (np.float32, np.float16):
            bias = bias.astype(np.float32)
        prefix = str(self._products[-1].bias.name).rsplit(".", 2)[0]  # …attentions.3.kv_lin.bias → …attentions.3
        return (
            constant(self._graph, f"{prefix}.packed_qkv.weight", np.ascontiguousarray(by_heads)),
            constant(self._graph, f"{prefix}.packed_qkv.bias", bias),
            n_heads,
        )


def fuse_packed_attention(model: onnx_ir.Model, half: bool) -> list[int]:
    """Replace each layer's attention, and the inputs that tell rows apart; returns the layers in which it did."""
    rule = FusePackedAttention(model, half)
    rewriter.RewriteRule(rule.pattern, rule.rewrite, rule.check).apply_to_model(model)
    common.RemoveUnusedNodesPass()(model)
    _read_other_shapes(model.graph)
    _replace_segments(model.graph)
    for name in _REPLACED:
        value = next((item for item in model.graph.inputs if item.name == name), None)
        if value is not None and not value.uses():
            model.graph.inputs.remove(value)
    return rule.layers


def _row_inputs(graph: onnx_ir.Graph) -> list[onnx_ir.Value]:
    """`ROW_INPUTS` as new inputs of the graph."""
    made = [
        onnx_ir.Value(name=spec.name, shape=onnx_ir.Shape(spec.axes), type=onnx_ir.TensorType(onnx_ir.DataType.INT32))
        for spec in ROW_INPUTS
    ]
    graph.inputs.extend(made)
    return made


def _heads(pieces: onnx_ir.Value, names: WeightNames) -> _Heads | None:
    """What a Reshape (tokens · parts · n_heads, head_dim) of a layer's product is made of."""
    shaped = pieces.producer()
    if shaped is None or shaped.op_type != "Reshape" or shaped.inputs[1].const_value is None:  # type: ignore[union-attr]
        return None
    added = shaped.inputs[0].producer()  # type: ignore[union-attr]
    if added is None or added.op_type != "Add":
        return None
    product, bias = added.inputs
    made = product.producer()  # type: ignore[union-attr]
    if made is None or made.op_type != "MatMul" or names.layer_of(bias) is None:
        return None
    x, weight = made.inputs
    if weight is None or weight.const_value is None or bias is None or bias.const_value is None or x is None:
        return None
    return _Heads(x, weight, bias, int(array(shaped.inputs[1])[-1]))  # type: ignore[arg-type]


def _kept(queried: onnx_ir.Value, hidden: onnx_ir.Value) -> onnx_ir.Value | None:
    """The index by which `queried` was gathered from `hidden`: Unsqueeze(Gather(Squeeze(hidden), index))."""
    found = queried
    index = None
    for operator in ("Unsqueeze", "Gather", "Squeeze"):
        made = found.producer()
        if made is None or made.op_type != operator or made.inputs[0] is None:
            return None
        index = made.inputs[1] if operator == "Gather" else index
        found = made.inputs[0]
    return index if found is hidden else None


def _read_other_shapes(graph: onnx_ir.Graph) -> None:
    """Shapes that were read of inputs which go are those of inputs which stay."""
    inputs = {value.name: value for value in graph.inputs}
    for name, other in _SAME_SHAPE.items():
        for use in tuple(inputs[name].uses()) if name in inputs else ():
            if use.node.op_type == "Shape":
                use.node.replace_input_with(use.idx, inputs[other])


def _replace_segments(graph: onnx_ir.Graph) -> None:
    """Heads that look at whole rows ask which places hold a token: those that the token there calls its own.

    segment_ids != 0  →  token_index[padded_index] = 0, 1, 2, …
    """
    inputs = {value.name: value for value in graph.inputs}
    segments = inputs.get("segment_ids")
    if segments is None or not segments.uses():
        return
    places, token_index = inputs["padded_index"], inputs["token_index"]
    zero, one = (constant(graph, f"places.{number}", np.array(number, np.int64)) for number in (0, 1))
    size = onnx_ir.node("Size", [places])
    shape = onnx_ir.node("Shape", [places])
    every = onnx_ir.node("Range", [zero, size.outputs[0], one])
    own = onnx_ir.node("Reshape", [every.outputs[0], shape.outputs[0]])
    found = onnx_ir.node("Gather", [token_index, places], {"axis": 0})
    equal = onnx_ir.node("Equal", [found.outputs[0], own.outputs[0]])
    real = onnx_ir.node("Cast", [equal.outputs[0]], {"to": onnx_ir.DataType.INT64})
    graph.insert_before(graph[0], [size, shape, every, own, found, equal, real])
    onnx_ir.convenience.replace_all_uses_with(segments, real.outputs[0])
