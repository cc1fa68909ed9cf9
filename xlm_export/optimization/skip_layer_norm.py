"""The residual sum and its normalisation in one operator.

    LayerNormalization(x + (y + b), γ, β)  →  SkipLayerNormalization(y, x, γ, β, b)

y is a product of the layer, and b its bias; where the bias is no operator of its own, the operator gets none. Where a
layer normalises before its halves, the sum is read again: it is the operator's fourth output then. In half precision
the portable graph casts to float32 before a sum that is normalised alone, and back behind the normalisation. The
operator takes half precision as it is, and some of its kernels compute in it: `half_precision` says in which layers
that is too little.

The operator is ONNX Runtime's own (com.microsoft).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.constants import array, constant
from xlm_export.onnx_graph.names import WeightNames


@dataclass(frozen=True)
class Normalization:
    """One of the two normalisations of a layer as it stands in the graph; that of the embeddings adds other things.

    `name` is that of the product before it, such as `transformer.attentions.0.out_lin`; `last` is the node that gives
    its result, LayerNormalization or the Cast behind it; `added` is the one that gives the sum.
    """

    layer: int
    name: str
    total: onnx_ir.Value
    skip: onnx_ir.Value
    product: onnx_ir.Value
    gamma: onnx_ir.Value
    beta: onnx_ir.Value
    bias: onnx_ir.Value | None
    epsilon: float
    last: onnx_ir.Node
    added: onnx_ir.Node


def normalizations(model: onnx_ir.Model) -> list[Normalization]:
    """Those of the layers, in the graph's order."""
    return list(_normalizations(model))


def fuse_skip_layer_norm(model: onnx_ir.Model, kept: Collection[str]) -> list[int]:
    """Replace each layer's two, but for those of the names `kept`; returns a layer for each replacement."""
    layers = []
    for item in _normalizations(model):  # one by one: each reads what the one before it became
        if item.name not in kept:
            _replace(model.graph, item)
            layers.append(item.layer)
    return layers


def _normalizations(model: onnx_ir.Model) -> Iterator[Normalization]:
    names = names_of(model)
    for node in tuple(model.graph):
        item = _normalization(node, names) if node.op_type == "LayerNormalization" else None
        if item is not None:
            yield item


def _normalization(node: onnx_ir.Node, names: WeightNames) -> Normalization | None:
    attributes = node.attributes
    total, gamma, beta = (*node.inputs, None)[:3]
    if total is None or gamma is None or beta is None:
        return None
    summed = _before_cast(total)
    added = summed.producer()
    if attributes.get_int("axis", -1) != -1 or attributes.get_int("stash_type", 1) != 1:
        return None
    if added is None or added.op_type != "Add" or (summed is not total and len(total.uses()) != 1):
        return None
    terms = [_before_cast(value) for value in added.inputs]
    for product, skip in (terms[::-1], terms):
        bias = _own_bias(product, names)
        layer = names.layer_of(bias)
        if bias is None or layer is None:
            continue
        made = product.producer()
        others = [value for value in made.inputs if value is not None and value is not bias] if made else []
        alone = made is not None and made.op_type == "Add" and len(product.uses()) == 1
        return Normalization(
            layer=layer,
            name=str(bias.name).removesuffix(".bias"),
            total=total,
            skip=skip,
            product=others[0] if alone else product,
            gamma=gamma,
            beta=beta,
            bias=bias if alone else None,
            epsilon=attributes.get_float("epsilon", 1e-5),
            last=_cast_behind(node),
            added=added,
        )
    return None


def _own_bias(value: onnx_ir.Value, names: WeightNames) -> onnx_ir.Value | None:
    """The bias of the product of a layer that `value` is."""
    made = value.producer()
    if made is None or made.op_type not in ("Add", "Gemm"):
        return None
    return next((item for item in made.inputs if item is not None and item.is_initializer() and
                 str(item.name).endswith(".bias") and names.layer_of(item) is not None), None)  # fmt: skip


def _before_cast(value: onnx_ir.Value | None) -> onnx_ir.Value:
    made = value.producer() if value is not None else None
    if made is not None and made.op_type == "Cast" and made.attributes.get_int("to") == onnx_ir.DataType.FLOAT:
        return made.inputs[0]  # type: ignore[return-value]  # a Cast has an input
    return value  # type: ignore[return-value]  # an Add has two inputs


def _cast_behind(node: onnx_ir.Node) -> onnx_ir.Node:
    users = [use.node for use in node.outputs[0].uses()]
    return users[0] if len(users) == 1 and users[0].op_type == "Cast" else node


def _replace(graph: onnx_ir.Graph, item: Normalization) -> None:
    gamma, beta = item.gamma, item.beta
    if item.last.op_type == "Cast":  # these were cast to float32 when the graph was folded
        dtype = onnx_ir.DataType(item.last.attributes.get_int("to")).numpy()
        gamma = constant(graph, f"{item.name}.layer_norm.weight", array(gamma).astype(dtype))
        beta = constant(graph, f"{item.name}.layer_norm.bias", array(beta).astype(dtype))
    normal, summed = onnx_ir.Value(name=item.last.outputs[0].name), item.added.outputs[0]
    read_again = len(summed.uses()) > 1
    outputs = [normal]
    if read_again:  # behind the mean and the deviation, which nothing reads
        outputs += [onnx_ir.Value(name=""), onnx_ir.Value(name=""), onnx_ir.Value(name=f"{item.name}.sum")]
    node = onnx_ir.node(
        "SkipLayerNormalization",
        [item.product, item.skip, gamma, beta, *([] if item.bias is None else [item.bias])],
        {"epsilon": item.epsilon},
        domain="com.microsoft",
        outputs=outputs,
        name=f"{item.name}/SkipLayerNormalization",
    )
    graph.insert_before(item.added, node)
    onnx_ir.convenience.replace_all_uses_with(item.last.outputs[0], normal, replace_graph_outputs=True)
    graph.remove(item.last, safe=True)
    if read_again:
        onnx_ir.convenience.replace_all_uses_with(summed, outputs[-1], replace_graph_outputs=True)
