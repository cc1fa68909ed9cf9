"""Weights in bfloat16, for OpenVINO: it then computes in bfloat16 where the CPU has such products.

    W  →  Cast(W as bfloat16)

ONNX Runtime has no bfloat16 kernels on the CPU, so this is no graph for it: it would compute in float32. The operators
stay in float32 in the file; OpenVINO's own planner, told so by the type of the weights, decides which it runs in
bfloat16, and keeps what would lose too much in float32.
"""

from __future__ import annotations

import ml_dtypes
import onnx_ir

from xlm_export.onnx_graph.constants import array, constant

_LEAST = 4096


def weights_to_bf16(model: onnx_ir.Model) -> None:
    """Change the model in place: every float32 matrix of some size."""
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or len(tensor.shape) != 2 or tensor.size < _LEAST:
            continue
        half = constant(model.graph, f"{name}.bf16", array(value).astype(ml_dtypes.bfloat16))
        back = onnx_ir.node("Cast", [half], {"to": onnx_ir.DataType.FLOAT}, name=f"{name}/Cast")
        first = next(node for node in model.graph if value in node.inputs)
        model.graph.insert_before(first, back)
        onnx_ir.convenience.replace_all_uses_with(value, back.outputs[0])
        del model.graph.initializers[name]
