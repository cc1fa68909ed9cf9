"""Queries, keys and values from one product.

    x·Wq + bq, x·Wk + bk, x·Wv + bv  →  Split(x·[Wq Wk Wv] + [bq bk bv])

Two products of one input are joined as well: where queries are computed for fewer tokens than keys and values, those
two share an input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.constants import array, constant
from xlm_export.onnx_graph.names import WeightNames


@dataclass(frozen=True)
class _Product:
    """x·W + b as it stands in the graph: MatMul and Add, or Gemm with a transposed weight."""

    input: onnx_ir.Value
    weight: onnx_ir.Value
    bias: onnx_ir.Value
    first: onnx_ir.Node
    last: onnx_ir.Node
    transposed: bool


def fuse_qkv(model: onnx_ir.Model) -> list[int]:
    """Join the products of each layer; returns the layers in which it did."""
    names = names_of(model)
    groups: dict[tuple[int, onnx_ir.Value, bool], list[_Product]] = {}
    for node in model.graph:
        product = _product(node, names)
        if product is not None:
            layer = names.layer_of(product.bias)
            if layer is not None:
                groups.setdefault((layer, product.input, product.transposed), []).append(product)
    layers = []
    for (layer, _, _), products in groups.items():
        if {"k", "v"} <= {names.role_of(product.bias) for product in products}:
            _join(model.graph, products, names)
            layers.append(layer)
    return layers


def _product(node: onnx_ir.Node, names: WeightNames) -> _Product | None:
    bias = next((value for value in node.inputs if value is not None and _is_bias(value, names)), None)
    if bias is None:
        return None
    if node.op_type == "Gemm":
        x, weight = node.inputs[:2]
        if x is None or weight is None or not weight.is_initializer() or not node.attributes.get_int("transB", 0):
            return None
        return _Product(x, weight, bias, node, node, transposed=True)
    if node.op_type != "Add":
        return None
    other = node.inputs[1] if node.inputs[0] is bias else node.inputs[0]
    matmul = other.producer() if other is not None else None
    if matmul is None or matmul.op_type != "MatMul" or len(matmul.outputs[0].uses()) != 1:
        return None
    x, weight = matmul.inputs
    if x is None or weight is None or not weight.is_initializer():
        return None
    return _Product(x, weight, bias, matmul, node, transposed=False)


def _is_bias(value: onnx_ir.Value, names: WeightNames) -> bool:
    return names.role_of(value) is not None and (value.name or "").endswith(".bias")


def _join(graph: onnx_ir.Graph, products: list[_Product], names: WeightNames) -> None:
    first = products[0]
    prefix = str(names.joined([product.bias for product in products])).removesuffix(".bias")
    biases = [array(product.bias) for product in products]
    weights = [array(product.weight) for product in products]
    # MatMul has W (in, out), Gemm (out, in): outputs are joined in both
    weight = constant(graph, f"{prefix}.weight", np.concatenate(weights, axis=0 if first.transposed else 1))
    bias = constant(graph, f"{prefix}.bias", np.concatenate(biases))
    sizes = constant(graph, f"{prefix}.sizes", np.array([len(values) for values in biases], np.int64))
    nodes = []
    if first.transposed:
        nodes.append(onnx_ir.node("Gemm", [first.input, weight, bias], {"transB": 1}, name=f"{prefix}/Gemm"))
    else:
        nodes.append(onnx_ir.node("MatMul", [first.input, weight], name=f"{prefix}/MatMul"))
        nodes.append(onnx_ir.node("Add", [nodes[0].outputs[0], bias], name=f"{prefix}/Add"))
    split = onnx_ir.node(
        "Split",
        [nodes[-1].outputs[0], sizes],
        {"axis": -1},
        outputs=[onnx_ir.Value(name=product.last.outputs[0].name) for product in products],
        name=f"{prefix}/Split",
    )
    graph.insert_before(first.first, [*nodes, split])
    for product, new in zip(products, split.outputs, strict=True):
        onnx_ir.convenience.replace_all_uses_with(product.last.outputs[0], new, replace_graph_outputs=True)
    graph.remove({node for product in products for node in (product.first, product.last)}, safe=True)
