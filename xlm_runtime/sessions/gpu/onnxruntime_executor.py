"""ONNX Runtime as an executor on a device: inputs and outputs are bound by address, so nothing is copied needlessly.

Behind it what ONNX Runtime's TensorRT provider is told: the profiles that it builds engines for, and its options.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.bundle import Graph
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.executor import Call, Execution
from xlm_runtime.sessions.gpu.memory import Device, OutOfMemoryError
from xlm_runtime.sessions.gpu.planning import Axis, Profile, Shape, Tensor, read_profile
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

Ranges = Mapping[str, tuple[Shape, Shape, Shape]]

# Choices of a question, and positions with logits in one call.
_MOST_CHOICES = 8
_MOST_KEPT = 1024

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

# Bindings kept; a binding costs more to make than to look up.
_MOST_BINDINGS = 256


class OnnxRuntimeExecutor:
    """An opened `InferenceSession`.

    Args:
        session: of ONNX Runtime, with providers that compute on `device` and its stream.
        profiles: shapes that it takes; empty for any.
        captured: whether its calls may be captured; the session was then opened with `enable_cuda_graph`, with which
            ONNX Runtime refuses graphs that cannot be.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        device: Device,
        *,
        name: str,
        profiles: tuple[Profile, ...] = (),
        captured: bool = False,
    ) -> None:
        self.name = name
        self.inputs = tuple(_tensor(item) for item in session.get_inputs())
        self.outputs = tuple(_tensor(item) for item in session.get_outputs())
        self.profiles = profiles
        self._session = session
        self._device = device
        self._options = _capturable_options(onnxruntime) if captured else None
        self._bindings: OrderedDict[Call, Any] = OrderedDict()
        self._types = {tensor.name: _element_type(tensor) for tensor in (*self.inputs, *self.outputs)}

    def enqueue(self, call: Call) -> None:
        binding = self._bindings.get(call)
        if binding is None:
            binding = self._bindings[call] = self._bind(call)
            if len(self._bindings) > _MOST_BINDINGS:
                self._bindings.popitem(last=False)
        self._run(binding, call)

    def prepare(self, call: Call) -> Execution:
        return _Prepared(self._run, self._bind(call), call)

    def close(self) -> None:
        self._bindings.clear()
        del self._session

    def _run(self, binding: Any, call: Call) -> None:
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            shapes = ", ".join(f"{item.name} {item.shape}" for item in call.inputs)
            message = f"ONNX Runtime failed on {shapes}: {first_line(error)}"
            if "out of memory" in message.lower() or "failed to allocate" in message.lower():
                raise OutOfMemoryError(f"{message} End other programs on the device (nvidia-smi lists them), or give "
                                       "less at once (max_tokens).") from error  # fmt: skip
            raise EngineError(message) from error

    def _bind(self, call: Call) -> Any:
        binding = self._session.io_binding()
        where = self._device.kind, self._device.index
        for item in call.inputs:
            binding.bind_input(item.name, *where, self._types[item.name], item.shape, item.address)
        for item in call.outputs:
            binding.bind_output(item.name, *where, self._types[item.name], item.shape, item.address)
        return binding


@dataclass(frozen=True)
class _Prepared:
    """A call with a binding of its own. ONNX Runtime's memory is as large as its first run made it, and stays."""

    run: Callable[[Any, Call], None]
    binding: Any
    call: Call
    capturable: bool = True

    def enqueue(self) -> None:
        self.run(self.binding, self.call)


def _capturable_options(onnxruntime: Any) -> Any:
    """Options of runs that only put work on the stream: ONNX Runtime waits for nothing, and captures no graph itself,
    since it could not be made to give one back."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", "-1")
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


def plan_profiles(
    graph: Graph, config: XLMConfig, largest: Sequence[tuple[int, int]]
) -> tuple[tuple[Profile, ...], list[Ranges]]:
    """A profile for every pair of a largest batch and sequence, and of a graph with a cache one more for every batch,
    which takes one token with a past; and their shapes, input → (smallest, optimal, largest).

    Raises:
        EngineError: a precision that the provider does not take.
    """
    if graph.precision not in _DTYPES:
        raise EngineError(f"provider='tensorrt-ep' takes graphs in {', '.join(_DTYPES)}, not in {graph.precision}; "
                          "choose another precision, or provider='cuda'.")  # fmt: skip
    longest = config.max_position_embeddings
    tensors = [_tensor_of(spec.name, spec.dtype, spec.axes, graph, config) for spec in graph.inputs]
    past = any("past_sequence" in tensor.axes for tensor in tensors)
    sizes = [(f"{batch}x{min(sequence, longest)}", batch, min(sequence, longest)) for batch, sequence in largest]
    if past:
        sizes += [(f"{batch}x1, decoding", batch, 1) for batch in sorted({batch for batch, _ in largest})]
    profiles: list[Profile] = []
    shapes: list[Ranges] = []
    for name, batch, sequence in dict.fromkeys(sizes):
        kept = min(batch * sequence, _MOST_KEPT)
        low = {"batch": 1, "sequence": 1, "num_choices": 1, "kept": 1, "past_sequence": 0}
        high = {"batch": batch, "sequence": sequence, "num_choices": _MOST_CHOICES, "kept": kept}
        best = high | {"kept": min(batch, kept), "past_sequence": longest // 2 if sequence == 1 else 0}
        high |= {"past_sequence": longest}
        ranges = {tensor.name: (tensor.shape(low), tensor.shape(best), tensor.shape(high)) for tensor in tensors}
        profiles.append(read_profile(len(profiles), name, tensors, ranges))
        shapes.append(ranges)
    return tuple(profiles), shapes


def provider_options(graph: Graph, shapes: Sequence[Ranges], cache: Path) -> dict[str, str]:
    """Options of the provider: profiles, the engine cache and the graph's precision.

    Args:
        cache: folder for the engines that it builds.
    """
    options = {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        "trt_fp16_enable": str(int(graph.precision == "fp16")),
        "trt_bf16_enable": str(int(graph.precision == "bf16")),
    }
    # an input's shapes of all profiles stand one after the other: "a:1x8,a:1x16,b:1x8,b:1x16"
    for i, which in enumerate(("min", "opt", "max")):
        listed = [f"{name}:{'x'.join(map(str, ranges[name][i]))}" for name in shapes[0] for ranges in shapes]
        options[f"trt_profile_{which}_shapes"] = ",".join(listed)
    return options


def _tensor_of(name: str, dtype: str, axes: tuple[str, ...], graph: Graph, config: XLMConfig) -> Tensor:
    """Axes that are options of the configuration become numbers."""
    sizes: list[Axis] = [int(getattr(config, axis)) if hasattr(config, axis) else axis for axis in axes]
    return Tensor(name, _DTYPES[graph.precision] if dtype == "float" else dtype, tuple(sizes))
