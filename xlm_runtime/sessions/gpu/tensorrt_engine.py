"""A TensorRT plan as an engine. `tensorrt` and `tensorrt_rtx` have one API for what is used here."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xlm_runtime.bundle.atomic import write_bytes
from xlm_runtime.bundle.engine_stamp import EngineStamp
from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.executor import Call, Execution
from xlm_runtime.sessions.gpu.memory import Device, OutOfMemoryError
from xlm_runtime.sessions.gpu.planning import Axis, Tensor, read_profile
from xlm_runtime.sessions.gpu.tensorrt_modules import RuntimeModule

if TYPE_CHECKING:
    import tensorrt

_TYPES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "INT32": "int32", "BOOL": "bool"}


class TensorRTEngine:
    """A deserialised plan, whose stamp was checked, and which may run code if it carries some.

    All contexts share one piece of memory for activations, since one computes at a time.

    Args:
        trt: one of `MODULES`.
        kernels: file for kernels that `tensorrt_rtx` compiles on this machine, read here and written by `close`.

    Raises:
        EngineError: TensorRT cannot load the plan, or it is not what its stamp says.
        OutOfMemoryError: the device has too little memory.
    """

    def __init__(self, trt: RuntimeModule, plan: Path, stamp: EngineStamp, device: Device, kernels: Path) -> None:
        self.name = plan.name
        self._trt = trt
        self._device = device
        self._errors: list[str] = []
        self._runtime = trt.Runtime(_logger(trt, self._errors))
        if self._errors:  # it did not start: a null pointer in it, which neither use nor release survives
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._runtime))
            raise self._failure("cannot be loaded")
        if stamp.lean_runtime == "included":
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(np.memmap(plan, np.uint8, "r"))
        if self._engine is None:
            raise self._failure("cannot be loaded")
        axes = {spec.name: spec.axes for spec in (*stamp.inputs, *stamp.outputs)}
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        if set(names) != set(axes) or self._engine.num_optimization_profiles != len(stamp.profiles):
            raise EngineError(
                f"The engine '{plan}' has the tensors {', '.join(names)} and "
                f"{self._engine.num_optimization_profiles} profiles, but its stamp says {', '.join(axes)} and "
                f"{len(stamp.profiles)}. Build it again with `xlm-export engine`."
            )
        tensors = {name: self._tensor(name, axes[name]) for name in names}
        self.inputs = tuple(tensors[spec.name] for spec in stamp.inputs)
        self.outputs = tuple(tensors[spec.name] for spec in stamp.outputs)
        self.profiles = tuple(
            read_profile(i, profile.name, self.inputs, profile.shapes) for i, profile in enumerate(stamp.profiles)
        )
        self._kernels = _KernelCache(trt, self._engine, kernels) if hasattr(trt, "IRuntimeCache") else None
        self._activations = self._engine.device_memory_size_v2
        self._memory = device.allocate(self._activations)
        self._contexts: dict[int, _Context] = {}

    def enqueue(self, call: Call) -> None:
        if call.profile not in self._contexts:
            self._contexts[call.profile] = _Context(self, call.profile)
        self._contexts[call.profile].enqueue(call)

    def prepare(self, call: Call) -> Execution:
        return _Prepared(_Context(self, call.profile), call)

    def close(self) -> None:
        self._contexts.clear()
        if self._kernels is not None:
            self._kernels.save()
            self._kernels = None
        del self._engine, self._runtime

    def create_context(self) -> tensorrt.IExecutionContext:
        """A context that computes in the shared memory."""
        managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._kernels.config if self._kernels else managed)
        if context is None:
            raise self._failure("cannot be made ready to run")
        context.set_device_memory(self._memory, self._activations)
        return context

    @property
    def stream(self) -> int:
        return self._device.stream

    def check(self, done: bool, call: Call) -> None:
        """Raise what TensorRT logged where something was not `done`."""
        if not done:
            shapes = ", ".join(f"{item.name} {item.shape}" for item in call.inputs)
            raise self._failure(f"failed on {shapes}")

    def _failure(self, what: str) -> EngineError:
        why = self._errors[-1] if self._errors else "TensorRT gives no reason"
        self._errors.clear()
        message = f"The engine '{self.name}' {what}: {why}"
        if "out of memory" in why.lower() or "outofmemory" in why.lower():
            return OutOfMemoryError(f"{message} End other programs on the device (nvidia-smi lists them), or build the "
                                    "engine with smaller profiles.")  # fmt: skip
        return EngineError(message)

    def _tensor(self, name: str, axes: tuple[str, ...]) -> Tensor:
        """Name and type as the engine has them; its dynamic axes, −1 there, under the stamp's names."""
        trt, engine = self._trt, self._engine
        kind = engine.get_tensor_dtype(name).name
        if kind not in _TYPES or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise EngineError(
                f"The engine '{self.name}' wants {name} as {kind} in {engine.get_tensor_location(name).name} memory, "
                "which sessions do not handle. Build it again with `xlm-export engine`."
            )
        sizes = _sizes(engine.get_tensor_shape(name))
        named: list[Axis] = [axis if size < 0 else size for size, axis in zip(sizes, axes, strict=True)]
        return Tensor(name, _TYPES[kind], tuple(named))


class _Context:
    """An execution context in one profile; it remembers the last call, whose shapes and addresses it has."""

    def __init__(self, engine: TensorRTEngine, profile: int) -> None:
        self._engine = engine
        self._profile = profile
        self._context: tensorrt.IExecutionContext | None = None
        self._call: Call | None = None

    def enqueue(self, call: Call) -> None:
        context = self._context
        if context is None:
            context = self._context = self._engine.create_context()
            self._engine.check(context.set_optimization_profile_async(self._profile, self._engine.stream), call)
        if call != self._call:
            self._bind(context, call)
            self._call = call
        self._engine.check(context.execute_async_v3(self._engine.stream), call)

    @property
    def capturable(self) -> bool:
        # TensorRT-RTX may still be compiling kernels for these shapes
        check = getattr(self._context, "is_stream_capturable", None)
        return True if check is None else bool(check(self._engine.stream))

    def _bind(self, context: tensorrt.IExecutionContext, call: Call) -> None:
        for item in call.inputs:
            self._engine.check(context.set_input_shape(item.name, item.shape), call)
        for item in call.outputs:
            shape = _sizes(context.get_tensor_shape(item.name))
            if shape != item.shape:
                raise EngineError(
                    f"The engine '{self._engine.name}' gives {item.name} the shape {shape}, where {item.shape} was "
                    "planned. Build it again with `xlm-export engine`."
                )
        for item in (*call.inputs, *call.outputs):
            self._engine.check(context.set_tensor_address(item.name, item.address), call)


class _Prepared:
    """A call in a context of its own."""

    def __init__(self, context: _Context, call: Call) -> None:
        self._context = context
        self._call = call

    @property
    def capturable(self) -> bool:
        return self._context.capturable

    def enqueue(self) -> None:
        self._context.enqueue(self._call)


class _KernelCache:
    """`tensorrt_rtx` compiles kernels when an engine runs: all contexts share them, and a file keeps them."""

    def __init__(self, trt: RuntimeModule, engine: Any, path: Path) -> None:
        self._path = path
        self.config = engine.create_runtime_config()
        self.config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        self._cache = self.config.create_runtime_cache()
        self._saved = path.read_bytes() if path.is_file() else b""
        if self._saved:
            self._cache.deserialize(self._saved)  # refused where driver or device are others: compiled anew then
        self.config.set_runtime_cache(self._cache)

    def save(self) -> None:
        kernels = bytes(self._cache.serialize())
        if kernels == self._saved:
            return
        with suppress(OSError):  # a folder that is read-only costs the next start time, nothing else
            write_bytes(self._path, kernels)


def _sizes(shape: tensorrt.Dims) -> tuple[int, ...]:
    return tuple(shape[i] for i in range(len(shape)))


def _logger(trt: RuntimeModule, errors: list[str]) -> tensorrt.ILogger:
    """A TensorRT logger that keeps errors for the exception that follows."""
    if TYPE_CHECKING:
        from tensorrt import ILogger
    else:
        ILogger = trt.ILogger  # noqa: N806

    class Logger(ILogger):
        def __init__(self) -> None:
            ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in (ILogger.Severity.ERROR, ILogger.Severity.INTERNAL_ERROR):
                errors.append(" ".join(msg.split()))

    return Logger()
