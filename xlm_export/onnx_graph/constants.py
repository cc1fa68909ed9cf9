"""Constants of a graph: reading them, adding new ones, and keeping them in a smaller type."""

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


def keep_as(graph: onnx_ir.Graph, value: onnx_ir.Value, dtype: np.dtype, suffix: str) -> None:
    """W → Cast(W as `dtype`), for a float32 constant that is read as before; numbers out of its range become infinite.

    Args:
        suffix: of the new constant's name.
    """
    with np.errstate(over="ignore"):
        kept = constant(graph, f"{value.name}.{suffix}", array(value).astype(dtype))
    back = onnx_ir.node("Cast", [kept], {"to": onnx_ir.DataType.FLOAT}, name=f"{value.name}/Cast")
    graph.insert_before(next(node for node in graph if value in node.inputs), back)
    onnx_ir.convenience.replace_all_uses_with(value, back.outputs[0])
    del graph.initializers[str(value.name)]
