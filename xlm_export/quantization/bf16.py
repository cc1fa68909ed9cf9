"""Weights in bfloat16, for OpenVINO: it then computes in bfloat16 where the CPU has such products.

    W  →  Cast(W as bfloat16)

ONNX Runtime has no bfloat16 kernels on the CPU, so this is no graph for it: it would compute in float32. The operators
stay in float32 in the file; OpenVINO's own planner, told so by the type of the weights, decides which it runs in
bfloat16, and keeps what would lose too much in float32.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir

from xlm_export.onnx_graph.constants import keep_as

_LEAST = 4096


def weights_to_bf16(model: onnx_ir.Model) -> None:
    """Change the model in place: every float32 matrix of some size."""
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        if tensor is None or tensor.dtype != onnx_ir.DataType.FLOAT or len(tensor.shape) != 2 or tensor.size < _LEAST:
            continue
        keep_as(model.graph, value, np.dtype(ml_dtypes.bfloat16), "bf16")
