"""ONNX Runtime on the CPU, and what its sessions on a GPU share with it."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.errors import EngineError, MissingExtraError
from xlm_runtime.processes import PerProcess
from xlm_runtime.providers import Provider
from xlm_runtime.sessions.prepared_graphs import WEIGHTS_FILE, find_place
from xlm_runtime.sessions.session import Array, GraphSource, SessionOptions, narrow_to_bfloat16, widen_bfloat16

# After a call of more tokens than this the memory it needed goes back to the system, see `session_options`.
_LARGE_CALL = 4096

_BFLOAT16 = "tensor(bfloat16)"
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


def open_on_cpu(source: GraphSource, provider: Provider, options: SessionOptions) -> OnnxRuntimeSession:
    """`Opener` of provider "cpu"."""
    onnxruntime = import_onnxruntime(provider)
    kept = find_place(source, options, onnxruntime.__version__)

    def open_file(path: Path, change: Callable[[Any], None]) -> Any:
        settings = session_options(onnxruntime, options.threads)
        change(settings)
        return open_inference_session(onnxruntime, path, provider, [], settings)

    def prepare(target: Path) -> None:
        try:
            open_file(source.path, lambda settings: _save_prepared(settings, target))
        except EngineError as error:
            open_file(source.path, lambda settings: None)  # a graph that cannot be opened says so itself
            raise OSError(errno.EIO, "ONNX Runtime could not save the graph there; is the disk full?") from error
        open_prepared(target)

    def open_prepared(path: Path) -> Any:
        off = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # done, and a second pass may do more
        return open_file(path, lambda settings: setattr(settings, "graph_optimization_level", off))

    def start() -> Any:
        if kept is not None and (found := kept.find() or kept.make(prepare)) is not None:
            with suppress(EngineError):  # another process removed it since
                return open_prepared(found)
        return open_file(source.path, lambda settings: None)

    return OnnxRuntimeSession(onnxruntime, start)


def _save_prepared(settings: Any, target: Path) -> None:
    """Have the graph saved as it was rewritten for the CPU, with its weights as they are and as they were packed."""
    settings.optimized_model_filepath = str(target)
    settings.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)
    settings.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")


def import_onnxruntime(provider: Provider) -> Any:
    """The module, once it is known to have the provider.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        EngineError: this onnxruntime lacks the provider.
    """
    name, extra = provider.execution_provider, provider.extra
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", extra, f"provider='{provider.name}'") from error
    there = onnxruntime.get_available_providers()
    if name not in there:
        raise EngineError(
            f"provider='{provider.name}' needs {name}, but the installed onnxruntime has only {', '.join(there)}. "
            f"Please reinstall with the `{extra}` extra: pip install 'xlm-onnx[{extra}]'"
            + (" (after pip uninstall onnxruntime: the two share a module)." if provider.on_gpu else ".")
        )
    if provider.on_gpu and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # CUDA libraries that came as Python packages are on no search path
    return onnxruntime


def open_inference_session(onnxruntime: Any, path: Path, provider: Provider, providers: list[Any], options: Any) -> Any:
    """ONNX Runtime's own session, on the provider that was asked for or not at all.

    Args:
        providers: of ONNX Runtime, before the CPU's, which takes the shape arithmetic that ONNX Runtime keeps off a
            device on purpose.
        options: see `session_options`.

    Raises:
        EngineError: the provider does not start, or the graph has no kernels there.
    """
    name = provider.execution_provider
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=[*providers, "CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise EngineError(_explain(error, path, provider.name)) from error
    started = session.get_providers()
    if started[0] != name:
        raise EngineError(
            f"provider='{provider.name}' was asked for, but ONNX Runtime could not start {name} and offers "
            f"{', '.join(started)}. Check that the device is visible (nvidia-smi) and that the installed CUDA, cuDNN "
            "and, for tensorrt-ep, TensorRT fit this onnxruntime-gpu."
        )
    session.disable_fallback()  # by default a failing device is replaced by the CPU without a word
    return session


class OnnxRuntimeSession:
    """A graph in ONNX Runtime on the CPU.

    Args:
        onnxruntime: the module.
        start: opens its `InferenceSession`.
    """

    def __init__(self, onnxruntime: Any, start: Callable[[], Any]) -> None:
        self._ort = onnxruntime
        self._session = PerProcess(start)
        session = self._session.get()
        self._inputs = {item.name: item.type for item in session.get_inputs()}
        self._outputs = {item.name: item.type for item in session.get_outputs()}
        self._ort_values = _BFLOAT16 in (*self._inputs.values(), *self._outputs.values())
        self._give_back = onnxruntime.RunOptions()
        self._give_back.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self._outputs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        large = max((value.size for value in inputs.values() if value.dtype.kind == "i"), default=0) > _LARGE_CALL
        options = self._give_back if large else None
        feed = {name: self._cast(name, value) for name, value in inputs.items()}
        session = self._session.get()
        try:
            if self._ort_values:
                values = session.run_with_ort_values(list(self._outputs), self._wrap(feed), options)
                return {name: _to_numpy(value) for name, value in zip(self._outputs, values, strict=True)}
            return dict(zip(self._outputs, session.run(None, feed, options), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            shapes = ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
            raise EngineError(f"ONNX Runtime failed on {shapes}: {first_line(error)}") from error

    def _cast(self, name: str, value: Array) -> Array:
        """Floating-point inputs in the graph's type; bfloat16 as its bits."""
        if value.dtype.kind != "f":
            return value
        if self._inputs.get(name) == _BFLOAT16:
            return narrow_to_bfloat16(value)
        return value.astype(_FLOATS.get(self._inputs.get(name, ""), value.dtype), copy=False)

    def _wrap(self, feed: Mapping[str, Array]) -> dict[str, Any]:
        make = self._ort.OrtValue
        return {
            name: make.ortvalue_from_numpy_with_onnx_type(value, _ONNX_BFLOAT16)
            if self._inputs.get(name) == _BFLOAT16
            else make.ortvalue_from_numpy(value)
            for name, value in feed.items()
        }


def session_options(onnxruntime: Any, threads: int) -> Any:
    """Options that keep memory flat when every call has another shape.

    Measured with 4 layers × 512 on two cores, 1,000 calls of up to 8×64 tokens (seconds; resident memory from the
    50th to the last call) and then 16×512 tokens (ms a call; memory afterwards):

        default                              15.4 s   351 → 374 MB     1100 ms   1382 MB
        no memory patterns                   11.4 s   346 → 346 MB     1100 ms    821 MB
        no patterns, shrink after each call  11.6 s   336 → 342 MB     1280 ms    383 MB
        no patterns, no arena                11.6 s   330 → 330 MB     2000 ms    406 MB

    A memory pattern is planned and kept for every new shape: memory grows, and planning takes longer than it saves.
    The arena stays, because without it large tensors are mapped and cleared anew in each call; calls that are large
    themselves give its memory back, so that one long batch does not stay in memory for good.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.log_severity_level = 3  # what matters arrives as an exception
    return options


def _to_numpy(value: Any) -> Array:
    if value.data_type() != _BFLOAT16:
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    size = int(np.prod(shape))
    bits = np.ctypeslib.as_array((ctypes.c_uint16 * size).from_address(value.data_ptr())) if size else np.empty(0)
    return widen_bfloat16(bits.astype(np.uint16)).reshape(shape)


def _explain(error: Exception, path: Path, provider: str) -> str:
    message = f"ONNX Runtime cannot load '{path}' with provider='{provider}': {first_line(error)}"
    if "NOT_IMPLEMENTED" in message or "Could not find an implementation" in message:
        message += (
            " The graph uses operators or a precision that this provider has no kernels for (bf16 has none on the CPU);"
            " choose another precision, or provider='openvino', or provider='cuda'."
        )
    if "graph capture" in message:
        message += " Open it with cuda_graphs=False (--no-cuda-graphs)."
    return message


def first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].strip()
