"""Weights of matrix products in 4 bits, a scale for each 32 of a column; products in int8.

    x·W  →  MatMulNBits(x, W4, s_W)

The operator is ONNX Runtime's own (com.microsoft), so only ONNX Runtime runs this graph.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def int4_weights(source: Path, target: Path) -> None:
    """Write `source` with weights in 4 bits to `target`."""
    with _quiet():
        from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

        model = onnx.load(source)
        _gemm_to_matmul(model)
        config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, accuracy_level=4, bits=4)
        quantizer = MatMulNBitsQuantizer(model, algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), False)


def _gemm_to_matmul(model: onnx.ModelProto) -> None:
    """Gemm with a transposed constant, x · Wᵀ (+ b) → MatMul (and Add), with Wᵀ as a weight of its own."""
    weights = {item.name: item for item in model.graph.initializer}
    for i, node in reversed(list(enumerate(model.graph.node))):
        options = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type != "Gemm" or node.input[1] not in weights or options.get("transA"):
            continue
        if options.get("alpha", 1.0) != 1.0 or options.get("beta", 1.0) != 1.0:
            continue
        name = node.input[1]
        if options.get("transB"):
            name = f"{node.input[1]}.transposed"
            values = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[1]]).T)
            model.graph.initializer.append(numpy_helper.from_array(values, name))
        product = f"{node.output[0]}.product" if len(node.input) > 2 else node.output[0]
        made = [onnx.helper.make_node("MatMul", [node.input[0], name], [product], name=f"{node.name}.matmul")]
        if len(node.input) > 2:
            made.append(onnx.helper.make_node("Add", [product, node.input[2]], list(node.output)))
        model.graph.node.remove(node)
        for new in reversed(made):
            model.graph.node.insert(i, new)


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
