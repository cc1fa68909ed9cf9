"""Constants of a graph: reading them, and adding new ones."""

from __future__ import annotations

import numpy as np
import onnx_ir


def array(value: onnx_ir.Value) -> np.ndarray:
    """A constant's values."""
    if value.const_value is None:
        raise ValueError(f"The value {value.name} is no constant.")
    return value.const_value.numpy()


def constant(graph: onnx_ir.Graph, name: str, values: np.ndarray) -> onnx_ir.Value:
    """A new constant, or the one that has this name already."""
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = onnx_ir.tensor(values, name=name)
    value = onnx_ir.Value(
        name=name, const_value=tensor, shape=onnx_ir.Shape(values.shape), type=onnx_ir.TensorType(tensor.dtype)
    )
    graph.register_initializer(value)
    return value
