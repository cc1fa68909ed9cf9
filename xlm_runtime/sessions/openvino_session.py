"""OpenVINO on the CPU, from the same .onnx file."""

from __future__ import annotations

import queue
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.errors import EngineError, MissingExtraError
from xlm_runtime.processes import PerProcess
from xlm_runtime.providers import Provider
from xlm_runtime.sessions.compiled_models import CompiledModels
from xlm_runtime.sessions.session import Array, GraphSource, SessionOptions

# OpenVINO's names of types, and of a CPU's units for them
_CAPABILITIES = {"f32": "FP32", "f16": "FP16", "bf16": "BF16"}


def open_openvino(source: GraphSource, provider: Provider, options: SessionOptions) -> OpenVinoSession:
    """`Opener` of provider "openvino"."""
    return OpenVinoSession(source, threads=options.threads, engine_cache=options.engine_cache)


class OpenVinoSession:
    """A graph in OpenVINO.

    Args:
        source: the graph; its external data lie beside it.
        threads: threads that one call computes with.
        engine_cache: folder that keeps the compiled graph for the next start; by default nothing is kept.

    Raises:
        MissingExtraError: openvino is not installed.
        EngineError: OpenVINO cannot read or compile the graph.
        InputError, BundleError: see `CompiledModels`, with an engine cache alone.
    """

    def __init__(self, source: GraphSource, *, threads: int, engine_cache: Path | None = None) -> None:
        self._source, self._threads, self._engine_cache = source, threads, engine_cache
        self.imported = False
        self._requests = PerProcess(lambda: _Requests(self._compile()))
        ports = self._requests.get().compiled
        self._input_names = tuple(port.get_any_name() for port in ports.inputs)
        self._output_names = tuple(port.get_any_name() for port in ports.outputs)

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if set(inputs) != set(self._input_names):
            raise EngineError(f"The graph's inputs are {', '.join(self._input_names)}; given: {', '.join(inputs)}.")
        feed = {name: value.astype(np.float32) if value.dtype.kind == "f" else value for name, value in inputs.items()}
        requests = self._requests.get()
        try:
            request = requests.take()
            outputs = infer(request, feed, self._output_names)
        except (RuntimeError, MemoryError) as error:
            self._requests.drop()  # in no known state: after too little memory no request of it may ever work again
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise EngineError(f"OpenVINO failed on {shapes}: {_first_line(error)}") from error
        requests.give_back(request)
        return outputs

    def _compile(self) -> Any:
        source, engine_cache = self._source, self._engine_cache
        try:
            import openvino
        except ImportError as error:
            raise MissingExtraError("openvino", "openvino", "provider='openvino'") from error
        try:
            core = openvino.Core()
            capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            properties = {"INFERENCE_NUM_THREADS": self._threads, "PERFORMANCE_HINT": "LATENCY"}
            kept = None
            if engine_cache is not None:
                cpu = [core.get_property("CPU", "FULL_DEVICE_NAME"), *sorted(capabilities)]
                kept = CompiledModels(
                    engine_cache, source, {"openvino": openvino.__version__, "cpu": cpu, **properties}
                )
            compiled = None
            if kept is not None and (found := kept.load()) is not None:
                compiled = _import(core, *found, properties)
            self.imported = compiled is not None
            if compiled is None:
                model = _with_float32_ends(
                    openvino, transpose_int8_weights(openvino, core.read_model(str(source.path)))
                )
                kind = compute_type(model, capabilities)
                compiled = core.compile_model(model, "CPU", properties | {"INFERENCE_PRECISION_HINT": kind})
                if kept is not None:
                    kept.store(kind, compiled.export_model().getvalue())
            return compiled
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot load '{source.path}': {_first_line(error)}") from error


class _Requests:
    """A compiled model's requests. A request serves one call at a time: each thread takes a free one, or makes one."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._free: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def take(self) -> Any:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            return self.compiled.create_infer_request()

    def give_back(self, request: Any) -> None:
        self._free.put(request)


def infer(request: Any, feed: Mapping[str, Array], output_names: Sequence[str]) -> dict[str, Array]:
    """A request's outputs for a feed, and never those of the call before.

    Where memory runs out OpenVINO may end a call without an error and without an answer: its buffers then hold what
    they held. So they are marked before, at both ends of each row, and an output that still has a mark, or no row at
    all, is refused.

    Args:
        request: OpenVINO's; it may not be used again after an exception.
        output_names: all outputs.

    Raises:
        RuntimeError: OpenVINO's own error, or an output that it did not compute.
    """
    for name in output_names:
        _ends(request.get_tensor(name).data)[...] = _MARK
    request.infer(feed, share_inputs=True)  # `feed` outlives the call
    outputs = {}
    for name in output_names:
        outputs[name] = request.get_tensor(name).data.copy()
        lost = outputs[name].size == 0 and all(value.size for value in feed.values())
        if lost or (_ends(outputs[name]) == _MARK).all(axis=-1).any():
            raise RuntimeError(f"the output {name} was not computed, as happens when memory runs out")
    return outputs


# all bits: a NaN that no computation gives, and as a whole number -1, which is no index
_MARK = 0xFF


def _ends(array: Array) -> Array:
    """The bytes of the first and the last number of each row, (…, 2 or 1, bytes of a number), as a view."""
    if not array.size:
        return np.empty((0, 1, array.itemsize), np.uint8)
    numbers = array.reshape(-1, array.shape[-1] if array.ndim else 1)
    of_bytes = numbers.view(np.uint8).reshape(*numbers.shape, array.itemsize)
    return of_bytes[:, :: max(numbers.shape[1] - 1, 1)]


def _import(core: Any, kind: str, model: bytes, properties: dict[str, Any]) -> Any:
    """The compiled model, or None where OpenVINO does not take it: it is compiled anew then."""
    try:
        return core.import_model(model, "CPU", properties | {"INFERENCE_PRECISION_HINT": kind})
    except RuntimeError:
        return None


def transpose_int8_weights(openvino: Any, model: Any) -> Any:
    """The model with int8 weights stored as their products read them, (in, out).

    Embeddings that are also the last projection lie in the file once, (words, dim), with a Transpose before the
    product. OpenVINO would compute that product in bf16, on weights of twice the size: 9 ms in place of 5 for 95,000
    words.
    """
    for node in model.get_ordered_ops():
        source = node.input_value(0).get_node() if node.get_type_name() == "Transpose" else None
        if source is None or source.get_type_name() != "Constant" or source.get_element_type() != openvino.Type.i8:
            continue
        order = node.input_value(1).get_node().get_data()
        transposed = openvino.op.Constant(np.ascontiguousarray(source.get_data().transpose(order)))
        node.output(0).replace(transposed.output(0))
    return model


def _with_float32_ends(openvino: Any, model: Any) -> Any:
    """The model with conversions at its half-precision inputs and outputs, since numpy has no bfloat16."""
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    halves = (openvino.Type.bf16, openvino.Type.f16)
    for i, port in enumerate(model.inputs):
        if port.get_element_type() in halves:
            steps.input(i).tensor().set_element_type(openvino.Type.f32)
    for i, port in enumerate(model.outputs):
        if port.get_element_type() in halves:
            steps.output(i).tensor().set_element_type(openvino.Type.f32)
    return steps.build()


def compute_type(model: Any, capabilities: list[str]) -> str:
    """The type of the weights (of the largest constant), or f32 where the CPU has no units for it.

    Left to itself OpenVINO computes fp32 graphs in bf16 where the CPU can, and it takes an f16 that the CPU lacks for
    bf16 too: here the graph's precision decides, and nothing less precise stands in for it. Between int8 products with
    fixed scales (FakeQuantize) bf16 rounds less than the products do, and takes half the time of attention; products
    with scales of each call are no int8 ones in OpenVINO, and bf16 would round their sums.
    """
    largest, kind, fixed_scales = 0, "f32", False
    for node in model.get_ops():
        fixed_scales |= node.get_type_name() == "FakeQuantize"
        if node.get_type_name() == "Constant":
            name = node.get_output_element_type(0).get_type_name()
            size = int(np.prod(list(node.get_output_shape(0))))
            if name in (*_CAPABILITIES, "i8") and size > largest:
                largest, kind = size, name
    if kind == "i8":
        kind = "bf16" if fixed_scales else "f32"
    return kind if _CAPABILITIES[kind] in capabilities else "f32"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
