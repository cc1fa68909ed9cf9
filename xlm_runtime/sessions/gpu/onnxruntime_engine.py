"""ONNX Runtime as an engine on a device: inputs and outputs are bound by address, so nothing is copied needlessly."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.engine import Call, Execution
from xlm_runtime.sessions.gpu.memory import Device, OutOfMemoryError
from xlm_runtime.sessions.gpu.planning import Axis, Profile, Tensor
from xlm_runtime.sessions.onnxruntime_session import first_line

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
}
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16

# Bindings kept; a binding costs more to make than to look up.
_MOST_BINDINGS = 256


class OnnxRuntimeEngine:
    """An opened `InferenceSession`.

    Args:
        session: of ONNX Runtime, with providers that compute on `device` and its stream.
        profiles: shapes that it takes; empty for any.
        graphs: CUDA graphs that ONNX Runtime may capture, one for each different call; 0 where the session was not
            opened with `enable_cuda_graph`.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        device: Device,
        *,
        name: str,
        profiles: tuple[Profile, ...] = (),
        graphs: int = 0,
    ) -> None:
        self.name = name
        self.inputs = tuple(_tensor(item) for item in session.get_inputs())
        self.outputs = tuple(_tensor(item) for item in session.get_outputs())
        self.profiles = profiles
        self._ort = onnxruntime
        self._session = session
        self._device = device
        self._most_graphs = graphs
        self._graph_ids: dict[Call, int] = {}
        self._bindings: OrderedDict[Call, Any] = OrderedDict()
        self._types = {tensor.name: _element_type(tensor) for tensor in (*self.inputs, *self.outputs)}

    def enqueue(self, call: Call) -> None:
        binding = self._bindings.get(call)
        if binding is None:
            binding = self._bindings[call] = self._bind(call)
            if len(self._bindings) > _MOST_BINDINGS:
                self._bindings.popitem(last=False)
        try:
            self._session.run_with_iobinding(binding, self._options(call))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            shapes = ", ".join(f"{item.name} {item.shape}" for item in call.inputs)
            message = f"ONNX Runtime failed on {shapes}: {first_line(error)}"
            if "out of memory" in message.lower() or "failed to allocate" in message.lower():
                raise OutOfMemoryError(f"{message} End other programs on the device (nvidia-smi lists them), or give "
                                       "less at once (max_tokens).") from error  # fmt: skip
            raise EngineError(message) from error

    def prepare(self, call: Call) -> Execution:
        raise EngineError("ONNX Runtime captures CUDA graphs by itself.")

    def close(self) -> None:
        self._bindings.clear()
        del self._session

    def _bind(self, call: Call) -> Any:
        binding = self._session.io_binding()
        where = self._device.kind, self._device.index
        for item in call.inputs:
            binding.bind_input(item.name, *where, self._types[item.name], item.shape, item.address)
        for item in call.outputs:
            binding.bind_output(item.name, *where, self._types[item.name], item.shape, item.address)
        return binding

    def _options(self, call: Call) -> Any:
        """Run options with the number of the call's CUDA graph; -1 captures none."""
        if not self._most_graphs:
            return None
        number = self._graph_ids.get(call, -1)
        if number < 0 and len(self._graph_ids) < self._most_graphs:
            number = self._graph_ids[call] = len(self._graph_ids) + 1
        options = self._ort.RunOptions()
        options.add_run_config_entry("gpu_graph_id", str(number))
        return options


def _tensor(item: Any) -> Tensor:
    if item.type not in _TYPES:
        raise EngineError(f"The graph's {item.name} has the type {item.type}, which sessions on a GPU do not handle.")
    axes: list[Axis] = []
    for i, size in enumerate(item.shape):
        if size is None:
            raise EngineError(f"Axis {i} of the graph's {item.name} has neither a size nor a name; export it again.")
        axes.append(size)
    return Tensor(item.name, _TYPES[item.type], tuple(axes))


def _element_type(tensor: Tensor) -> Any:
    return _ONNX_BFLOAT16 if tensor.dtype == "bfloat16" else np.dtype(tensor.dtype).type
