"""Writing ONNX files without holding their weights in memory a second and a third time.

The protobuf library builds the whole message and then its bytes, two copies of the weights. Here the small rest of
the model goes through it, and each weight is then appended to the graph's message, straight from its storage. The
lengths of the enclosing messages are known beforehand, so the file is the same message that the library would write,
its fields in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import onnx
import onnx_ir

# Weights above this many bytes cannot stand inside an ONNX file (protobuf's limit of 2 GiB), less room for the graph.
INLINE_LIMIT = 2**31 - 2**24

# Field numbers and wire type 2 (length-delimited), as in onnx.proto.
_MODEL_GRAPH = 7 << 3 | 2
_GRAPH_INITIALIZER = 5 << 3 | 2
_TENSOR_RAW_DATA = 9 << 3 | 2


def save(model: onnx_ir.Model, path: Path, external_data: bool = False) -> None:
    """Write the model and check it.

    Args:
        external_data: weights in `path`.data even where they are small enough to stand inside.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX.
    """
    if external_data or weight_bytes(model) > INLINE_LIMIT:
        onnx_ir.save(model, path, external_data=f"{path.name}.data")
    else:
        with path.open("wb") as file:
            _write_inline(model, file)
    onnx.checker.check_model(str(path))


def weight_bytes(model: onnx_ir.Model) -> int:
    """Bytes of all initializers."""
    return sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)


def _write_inline(model: onnx_ir.Model, file: BinaryIO) -> None:
    weights = dict(model.graph.initializers)
    model.graph.initializers.clear()
    try:
        rest = onnx_ir.to_proto(model)
    finally:
        model.graph.initializers.update(weights)
    graph = rest.graph.SerializeToString()
    rest.ClearField("graph")

    tensors, heads = [], []
    for name, value in weights.items():
        tensor = value.const_value
        if tensor is None:
            raise ValueError(f"The initializer '{name}' has no value.")
        head = onnx.TensorProto(name=name, data_type=int(tensor.dtype), dims=list(tensor.shape.numpy()))
        tensors.append(tensor)
        heads.append(head.SerializeToString() + bytes([_TENSOR_RAW_DATA]) + _varint(tensor.nbytes))
    sizes = [len(head) + tensor.nbytes for head, tensor in zip(heads, tensors, strict=True)]
    total = len(graph) + sum(1 + len(_varint(size)) + size for size in sizes)

    file.write(rest.SerializeToString() + bytes([_MODEL_GRAPH]) + _varint(total) + graph)
    for head, tensor, size in zip(heads, tensors, sizes, strict=True):
        file.write(bytes([_GRAPH_INITIALIZER]) + _varint(size) + head)
        file.write(tensor.tobytes())


def _varint(number: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
