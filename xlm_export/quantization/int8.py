"""Matrix products and embeddings in int8, in ONNX's standard operators, so that every provider can run the graph.

    dynamic   x·W  →  (MatMulInteger(Q(x), Wq) · s_x · s_W), s_x from the call's own values
    static    x·W  →  DQ(Q(x)) · DQ(Wq), s_x from calibration; providers join these to one product in int8
    words     E[i] →  Eq[i] · s_E[i]
    positions P    →  Cast(P as float16)

Weights are symmetric, with a scale for each column (for each word in embeddings); activations are uint8 with one scale
and zero point for a tensor. Products that read one tensor share its quantised form. See Jacob et al. 2018,
"Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir

from xlm_export.onnx_graph.constants import array, constant, keep_as
from xlm_export.quantization.products import Product, find_embeddings, find_positions, find_products

Ranges = Mapping[str, tuple[float, float]]
"""The lowest and highest value of activations, by name."""

_BLOCK = 4096  # rows


def quantize_int8(
    model: onnx_ir.Model,
    groups: Collection[str],
    ranges: Ranges | None,
    *,
    vocab_size: int,
    reduce_range: bool = False,
) -> None:
    """Change the model in place.

    Args:
        groups: which products (see `Product.group`), and "embeddings".
        ranges: of every product's input, for the static form; None for the dynamic one.
        reduce_range: weights to 7 bits, for CPUs that saturate.
    """
    highest = 63 if reduce_range else 127
    products = [product for product in find_products(model) if product.group in groups]
    gathers = find_embeddings(model, vocab_size) if "embeddings" in groups else []
    positions = find_positions(model) if gathers else []
    shared: dict[str, tuple[onnx_ir.Value, ...]] = {}
    for product in products:
        weight, scale = _weight(model.graph, product, highest)
        if ranges is None:
            _dynamic(model.graph, product, weight, scale, shared)
        else:
            _static(model.graph, product, weight, scale, ranges, shared)
    for node in gathers:
        _embedding(model.graph, node, highest)
    for table in positions:  # few, and every token has one
        keep_as(model.graph, table, np.dtype(np.float16), "fp16")
    for name in [name for name, value in model.graph.initializers.items() if not value.uses()]:
        del model.graph.initializers[name]


def rows_to_int8(values: np.ndarray, highest: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) float32 → int8 values, and float32 scales (rows,): values ≈ int8 · scale."""
    quantized = np.empty(values.shape, np.int8)
    scales = np.empty(len(values), np.float32)
    for start in range(0, len(values), _BLOCK):  # embeddings are large, and need not be there three times
        block = values[start : start + _BLOCK]
        largest = np.abs(block).max(axis=1)
        scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(highest)
        scales[start : start + _BLOCK] = scale
        quantized[start : start + _BLOCK] = np.rint(block / scale[:, None])
    return quantized, scales


def _weight(graph: onnx_ir.Graph, product: Product, highest: int) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """int8 (in, out) and scales (out,). A weight (out, in) stays so in the file, for embeddings may share it."""
    name = product.weight.name or ""
    values = array(product.weight)
    if not product.transposed:
        quantized, scales = rows_to_int8(values.T, highest)
        weight = constant(graph, f"{name}.int8", np.ascontiguousarray(quantized.T))
        return weight, constant(graph, f"{name}.scale", scales)
    rows, scale = _rows(graph, product.weight, highest)
    turned = onnx_ir.node("Transpose", [rows], {"perm": [1, 0]}, name=f"{name}/Transpose")
    graph.insert_before(product.node, turned)
    return turned.outputs[0], scale


def _rows(graph: onnx_ir.Graph, weight: onnx_ir.Value, highest: int) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    name = weight.name or ""
    if f"{name}.int8" in graph.initializers:
        return graph.initializers[f"{name}.int8"], graph.initializers[f"{name}.scale"]
    quantized, scales = rows_to_int8(array(weight), highest)
    return constant(graph, f"{name}.int8", quantized), constant(graph, f"{name}.scale", scales)


def _dynamic(
    graph: onnx_ir.Graph,
    product: Product,
    weight: onnx_ir.Value,
    weight_scale: onnx_ir.Value,
    shared: dict[str, tuple[onnx_ir.Value, ...]],
) -> None:
    key = product.input.name or ""
    if key not in shared:
        quantize = onnx_ir.node("DynamicQuantizeLinear", [product.input], num_outputs=3, name=f"{key}/Quantize")
        graph.insert_before(product.node, quantize)
        shared[key] = tuple(quantize.outputs)
    x, scale, zero = shared[key]
    multiply = onnx_ir.node("MatMulInteger", [x, weight, zero])
    whole = onnx_ir.node("Cast", [multiply.outputs[0]], {"to": onnx_ir.DataType.FLOAT})
    scales = onnx_ir.node("Mul", [scale, weight_scale])
    result = onnx_ir.node("Mul", [whole.outputs[0], scales.outputs[0]])
    _replace(graph, product, [multiply, whole, scales, result])


def _static(
    graph: onnx_ir.Graph,
    product: Product,
    weight: onnx_ir.Value,
    weight_scale: onnx_ir.Value,
    ranges: Ranges,
    shared: dict[str, tuple[onnx_ir.Value, ...]],
) -> None:
    key = product.input.name or ""
    if key not in shared:
        low, high = (min(0.0, ranges[key][0]), max(0.0, ranges[key][1]))  # 0 stays exact
        step = np.float32((high - low) / 255 or 1.0)
        scale = constant(graph, f"{key}.scale", np.array(step, np.float32))
        zero = constant(graph, f"{key}.zero", np.array(np.rint(-low / step), np.uint8))
        quantize = onnx_ir.node("QuantizeLinear", [product.input, scale, zero], name=f"{key}/Quantize")
        back = onnx_ir.node("DequantizeLinear", [quantize.outputs[0], scale, zero], name=f"{key}/Dequantize")
        graph.insert_before(product.node, [quantize, back])
        shared[key] = (back.outputs[0],)
    zeros = constant(graph, f"{weight_scale.name}.zero", np.zeros(array(weight_scale).shape, np.int8))
    dequantize = onnx_ir.node("DequantizeLinear", [weight, weight_scale, zeros], {"axis": 1})
    multiply = onnx_ir.node("MatMul", [shared[key][0], dequantize.outputs[0]])
    _replace(graph, product, [dequantize, multiply])


def _replace(graph: onnx_ir.Graph, product: Product, nodes: list[onnx_ir.Node]) -> None:
    """Put `nodes`, the last of which gives the product, in its place; a Gemm's bias is added behind."""
    old = product.node.outputs[0]
    if product.bias is not None:
        nodes.append(onnx_ir.node("Add", [nodes[-1].outputs[0], product.bias]))
    new = nodes[-1].outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    graph.insert_before(product.node, nodes)
    onnx_ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.remove(product.node, safe=True)


def _embedding(graph: onnx_ir.Graph, node: onnx_ir.Node, highest: int) -> None:
    table = node.inputs[0]
    if table is None:
        raise ValueError(f"The embedding {node.name} has no table.")
    rows, scales = _rows(graph, table, highest)
    columns = constant(graph, f"{table.name}.scale.column", array(scales)[:, None])  # (words, 1)
    old = node.outputs[0]
    picked = onnx_ir.node("Gather", [rows, node.inputs[1]], {"axis": 0})
    whole = onnx_ir.node("Cast", [picked.outputs[0]], {"to": onnx_ir.DataType.FLOAT})
    scale = onnx_ir.node("Gather", [columns, node.inputs[1]], {"axis": 0})
    result = onnx_ir.node("Mul", [whole.outputs[0], scale.outputs[0]])
    result.outputs[0].name = old.name
    graph.insert_before(node, [picked, whole, scale, result])
    onnx_ir.convenience.replace_all_uses_with(old, result.outputs[0], replace_graph_outputs=True)
    graph.remove(node, safe=True)
