"""Gemm(x, W, b) → MatMul(x, Wᵀ) + b, where passes and quantisers look for MatMul and Add."""

from __future__ import annotations

import numpy as np
import onnx_ir


def gemm_to_matmul(
    graph: onnx_ir.Graph, gemm: onnx_ir.Node, weight: onnx_ir.Value, bias: onnx_ir.Value | None
) -> onnx_ir.Node:
    """Replace a Gemm of constant weight, alpha and beta 1 and transA 0; returns the MatMul.

    A transposed weight becomes one of its own, `….transposed`, and goes itself when nothing else reads it.

    Args:
        weight: the Gemm's, under the name that it should have.
        bias: what to add, None for nothing.
    """
    matrix = weight
    if gemm.attributes.get_int("transB", 0):
        if weight.const_value is None:
            raise ValueError(f"The weight {weight.name} is no constant.")
        values = np.ascontiguousarray(weight.const_value.numpy().T)
        matrix = onnx_ir.val(f"{weight.name}.transposed", const_value=onnx_ir.tensor(values))
        graph.register_initializer(matrix)
    product = onnx_ir.node("MatMul", [gemm.inputs[0], matrix])
    nodes = [product]
    if bias is not None:
        nodes.append(onnx_ir.node("Add", [product.outputs[0], bias]))
    onnx_ir.convenience.replace_nodes_and_values(graph, gemm, [gemm], nodes, gemm.outputs, nodes[-1].outputs)
    if not weight.uses():
        del graph.initializers[str(weight.name)]
    return product
