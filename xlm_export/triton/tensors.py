"""A graph's inputs and outputs as Triton declares them, read from the graph itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import onnx

from xlm_export.triton.pbtxt import Constant, Message
from xlm_runtime.errors import BundleError

BATCH = "batch"

_TYPES: dict[int, str] = {
    onnx.TensorProto.INT64: "TYPE_INT64",
    onnx.TensorProto.INT32: "TYPE_INT32",
    onnx.TensorProto.BOOL: "TYPE_BOOL",
    onnx.TensorProto.FLOAT: "TYPE_FP32",
    onnx.TensorProto.FLOAT16: "TYPE_FP16",
    onnx.TensorProto.BFLOAT16: "TYPE_BF16",
}


@dataclass(frozen=True)
class Tensor:
    """An input or output: `axes` are names, and numbers where the size is fixed."""

    name: str
    type: Constant
    axes: tuple[str | int, ...]

    @property
    def is_batched(self) -> bool:
        return self.axes[:1] == (BATCH,)

    def declared(self, batched: bool) -> Message:
        """Its entry in the configuration.

        Args:
            batched: Triton puts requests together on the first axis, which then is not declared.
        """
        axes = self.axes[1:] if batched else self.axes
        dims = [axis if isinstance(axis, int) else -1 for axis in axes]
        # Triton has no tensors of (batch,), but takes (batch, 1) for them
        sizes: Message = {"dims": dims} if dims else {"dims": [1], "reshape": {}}
        return {"name": self.name, "data_type": self.type, **sizes}


@dataclass(frozen=True)
class Tensors:
    """All of a graph."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def unbatched(self) -> Tensor | None:
        """The first whose first axis is not the batch, so that Triton cannot put requests together; None if all are."""
        return next((tensor for tensor in (*self.inputs, *self.outputs) if not tensor.is_batched), None)


def read_tensors(path: Path) -> Tensors:
    """The inputs and outputs of an ONNX file.

    Raises:
        BundleError: a type that Triton has not.
    """
    graph = onnx.load(path, load_external_data=False).graph
    return Tensors(_read(graph.input, path), _read(graph.output, path))


def _read(values: Iterable[onnx.ValueInfoProto], path: Path) -> tuple[Tensor, ...]:
    tensors = []
    for value in values:
        kind = value.type.tensor_type
        if kind.elem_type not in _TYPES:
            name = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise BundleError(f"'{value.name}' of the graph '{path}' is of the type {name}, which is not served.")
        axes = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim)
        tensors.append(Tensor(value.name, Constant(_TYPES[kind.elem_type]), axes))
    return tuple(tensors)
