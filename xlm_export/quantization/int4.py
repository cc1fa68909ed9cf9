"""Weights of matrix products in 4 bits, a scale for each 32 of a column; products in int8.

    x·W  →  MatMulNBits(x, W4, s_W)

The operator is ONNX Runtime's own (com.microsoft), so only ONNX Runtime runs this graph.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator

import onnx_ir

from xlm_export.gemm import gemm_to_matmul
from xlm_export.onnx_file import copy_weights
from xlm_export.quantization.products import find_products


def int4_weights(model: onnx_ir.Model, groups: Collection[str]) -> onnx_ir.Model:
    """The model with the weights of these groups of products (see `Product.group`) in 4 bits; `model` is used up."""
    chosen = set()
    for product in find_products(model):
        if product.group in groups:
            node = product.node
            if node.op_type == "Gemm":
                node = gemm_to_matmul(model.graph, node, product.weight, product.bias)
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
    return made


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
