"""A graph in bfloat16 as one in float32, for machines without kernels for bfloat16."""

from __future__ import annotations

import numpy as np
import onnx_ir

_NARROW, _WIDE = onnx_ir.DataType.BFLOAT16, onnx_ir.DataType.FLOAT


def widen(model: onnx_ir.Model) -> bool:
    """Let a model compute in float32 wherever it computes in bfloat16, in place; its weights keep their values.

    Returns:
        Whether it computes in bfloat16 anywhere.
    """
    widened = False
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == _NARROW:
            value.const_value = onnx_ir.tensor(tensor.numpy().astype(np.float32), name=value.name)
            widened = True
    for node in model.graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if node.op_type == "Cast" and name == "to" and attribute.as_int() == _NARROW:
                node.attributes[name] = onnx_ir.AttrInt64(name, _WIDE)
            elif attribute.type == onnx_ir.AttributeType.TENSOR and attribute.as_tensor().dtype == _NARROW:
                values = attribute.as_tensor().numpy().astype(np.float32)
                node.attributes[name] = onnx_ir.AttrTensor(name, onnx_ir.tensor(values))
    of_nodes = (value for node in model.graph.all_nodes() for value in node.outputs)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values(), *of_nodes):
        if value.type is not None and value.type.dtype == _NARROW:
            value.type = onnx_ir.TensorType(_WIDE)
    return widened
