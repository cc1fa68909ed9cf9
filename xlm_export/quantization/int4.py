"""Weights of matrix products in 4 bits, a scale for each 32 of a column; products in int8.

    x·W        →  MatMulNBits(x, W4, Cast(s_W as float16))
    embedding  →  int8, as in `int8`

The operator is ONNX Runtime's own (com.microsoft), so only ONNX Runtime runs this graph. Scales would be a fifth of the
weights' bytes in float32; ONNX Runtime widens them once, when it loads the graph. A projection that is tied to the
words' embeddings reads their int8 matrix: one of its own in 4 bits would make the file larger.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator

import numpy as np
import onnx_ir

from xlm_export.onnx_graph.constants import array, constant, keep_as
from xlm_export.onnx_graph.file import copy_weights
from xlm_export.quantization.int8 import quantize_int8
from xlm_export.quantization.products import find_embeddings, find_products


def int4_weights(
    model: onnx_ir.Model, groups: Collection[str], *, vocab_size: int, reduce_range: bool = False
) -> onnx_ir.Model:
    """The model with the weights of these groups of products (see `Product.group`) in 4 bits; `model` is used up.

    Args:
        groups: which products, and "embeddings".
        vocab_size, reduce_range: see `quantize_int8`.
    """
    if "embeddings" in groups:
        tables = {node.inputs[0] for node in find_embeddings(model, vocab_size)}
        tied = {product.group for product in find_products(model) if product.weight in tables}
        in_int8 = {"embeddings", *tied.intersection(groups)}
        quantize_int8(model, in_int8, None, vocab_size=vocab_size, reduce_range=reduce_range)
    chosen = set()
    for product in find_products(model):
        if product.group in groups:
            node = product.node
            if node.op_type == "Gemm":
                node = _gemm_to_matmul(model.graph, node, product.weight, product.bias)
                node.name = f"{product.node.name}/MatMul"
            chosen.add(node.name)
    others = [str(node.name) for node in model.graph if node.op_type == "MatMul" and node.name not in chosen]
    copy_weights(model)
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=4)
        quantizer = MatMulNBitsQuantizer(onnx_ir.to_proto(model), nodes_to_exclude=others, algo_config=config)
        quantizer.process()
    made: onnx_ir.Model = onnx_ir.from_proto(quantizer.model.model)
    for node in [node for node in made.graph if node.op_type == "MatMulNBits"]:
        scales = node.inputs[2]
        if scales is not None:
            keep_as(made.graph, scales, np.dtype(np.float16), "fp16")
    return made


def _gemm_to_matmul(
    graph: onnx_ir.Graph, gemm: onnx_ir.Node, weight: onnx_ir.Value, bias: onnx_ir.Value | None
) -> onnx_ir.Node:
    """Gemm(x, W, b) → MatMul(x, Wᵀ) + b, since the quantiser takes no Gemm; returns the MatMul.

    The Gemm has a constant weight, alpha and beta 1 and transA 0. A transposed weight becomes one of its own,
    `….transposed`, and goes itself when nothing else reads it.

    Args:
        weight: the Gemm's, under the name that it should have.
        bias: what to add, None for nothing.
    """
    matrix = weight
    if gemm.attributes.get_int("transB", 0):
        matrix = constant(graph, f"{weight.name}.transposed", np.ascontiguousarray(array(weight).T))
    product = onnx_ir.node("MatMul", [gemm.inputs[0], matrix])
    nodes = [product]
    if bias is not None:
        nodes.append(onnx_ir.node("Add", [product.outputs[0], bias]))
    onnx_ir.convenience.replace_nodes_and_values(graph, gemm, [gemm], nodes, gemm.outputs, nodes[-1].outputs)
    if not weight.uses():
        del graph.initializers[str(weight.name)]
    return product


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's notes, errors aside, and leave no handler behind: importing it sets up logging."""
    root, library = logging.getLogger(), logging.getLogger("onnxruntime.quantization")
    handlers, levels = root.handlers[:], (root.level, library.level)
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        library.setLevel(levels[1])
