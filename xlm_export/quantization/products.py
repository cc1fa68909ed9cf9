"""The matrix products of a graph that have constant weights, and which part of the model each belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir

from xlm_export.families.table import names_of
from xlm_export.onnx_graph.constants import array
from xlm_export.onnx_graph.names import WeightNames


@dataclass(frozen=True)
class Product:
    """x·W or x·Wᵀ (+ b): a MatMul, or a Gemm, with a constant W.

    `group` is "layer 3 attention", "layer 3 ffn" or "head". `transposed`: W is (out, in).
    """

    node: onnx_ir.Node
    group: str
    transposed: bool

    @property
    def input(self) -> onnx_ir.Value:
        value = self.node.inputs[0]
        if value is None:
            raise ValueError(f"The product {self.node.name} has no input.")
        return value

    @property
    def weight(self) -> onnx_ir.Value:
        value = self.node.inputs[1]
        if value is None:
            raise ValueError(f"The product {self.node.name} has no weight.")
        return value

    @property
    def bias(self) -> onnx_ir.Value | None:
        return self.node.inputs[2] if len(self.node.inputs) > 2 else None


def find_products(model: onnx_ir.Model) -> list[Product]:
    """All of them, in the graph's order."""
    found, names = [], names_of(model)
    for node in model.graph:
        weight = node.inputs[1] if len(node.inputs) > 1 else None
        if node.op_type not in ("MatMul", "Gemm") or weight is None or not _is_matrix(weight):
            continue
        options = node.attributes
        plain = options.get_float("alpha", 1.0) == options.get_float("beta", 1.0) == 1.0
        if options.get_int("transA", 0) or not plain:
            continue
        found.append(Product(node, _group(node, names), bool(options.get_int("transB", 0))))
    return found


def find_embeddings(model: onnx_ir.Model, vocab_size: int) -> list[onnx_ir.Node]:
    """The Gathers of word embeddings: rows of a constant matrix with a row for each word."""
    return [
        node
        for node in model.graph
        if node.op_type == "Gather"
        and node.attributes.get_int("axis", 0) == 0
        and (table := node.inputs[0]) is not None
        and _is_matrix(table)
        and array(table).shape[0] == vocab_size
    ]


def find_positions(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    """The tables of position embeddings."""
    names = names_of(model)
    return [value for name, value in model.graph.initializers.items() if name.endswith(names.positions)
            and _is_matrix(value)]  # fmt: skip


def _is_matrix(value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    return value.is_initializer() and tensor is not None and tensor.dtype == onnx_ir.DataType.FLOAT and (
        len(tensor.shape) == 2
    )  # fmt: skip


def _group(node: onnx_ir.Node, names: WeightNames) -> str:
    """By the names of the weights at the product and at the operator behind it."""
    near = [*node.inputs, *(value for use in node.outputs[0].uses() for value in use.node.inputs)]
    for value in near:
        if (part := names.part_of(value)) is not None:
            return f"layer {names.layer_of(value)} {part}"
    return "head"
