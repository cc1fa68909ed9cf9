"""Sessions: one graph in one engine. Engines are imported when a session is opened."""

from __future__ import annotations

from pathlib import Path

from xlm_runtime.errors import InputError
from xlm_runtime.sessions.cpus import available_cpus
from xlm_runtime.sessions.gpu.options import GpuOptions
from xlm_runtime.sessions.session import Array, CachingSession, Session

__all__ = ["PROVIDERS", "Array", "CachingSession", "GpuOptions", "Session", "available_cpus", "open_session"]

PROVIDERS = ("cpu", "cuda", "openvino", "tensorrt", "tensorrt-ep")
_ON_GPU = ("cuda", "tensorrt", "tensorrt-ep")


def open_session(
    path: str | Path, provider: str = "cpu", threads: int | None = None, gpu: GpuOptions | None = None
) -> Session:
    """Load the graph in `path`.

    Args:
        provider: "cpu" (ONNX Runtime) or "openvino" on the CPU; "cuda" (ONNX Runtime), "tensorrt" (an engine that was
            built from the graph) or "tensorrt-ep" (ONNX Runtime's TensorRT provider) on a GPU.
        threads: threads of one call on the CPU; by default as many as the CPUs that this process may use.
        gpu: options of the providers on a GPU.

    Raises:
        InputError: an unknown provider, no positive number of threads, or options that the provider does not have.
        MissingExtraError: the engine is not installed.
        EngineError: the engine cannot use the provider or load the graph; there is no silent fall-back.
    """
    if provider not in PROVIDERS:
        raise InputError(f"Unknown provider '{provider}'; expected one of {', '.join(PROVIDERS)}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected a positive number.")
    if gpu is not None and provider not in _ON_GPU:
        raise InputError(f"Options for a GPU were given, but provider '{provider}' computes on the CPU; choose one of "
                         f"{', '.join(_ON_GPU)}.")  # fmt: skip
    path, gpu = Path(path), gpu or GpuOptions()
    threads = available_cpus() if threads is None else threads
    if provider == "tensorrt":
        from xlm_runtime.sessions.gpu.opening import open_engine

        return open_engine(path, gpu)
    if provider in _ON_GPU:
        from xlm_runtime.sessions.gpu.opening import open_onnxruntime

        return open_onnxruntime(path, provider, threads, gpu)
    if provider == "openvino":
        from xlm_runtime.sessions.openvino_session import OpenVinoSession

        return OpenVinoSession(path, threads=threads)
    from xlm_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(path, threads=threads)
