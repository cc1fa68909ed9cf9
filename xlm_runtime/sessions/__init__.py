"""Sessions: one graph in one engine. Engines are imported when a session is opened."""

from __future__ import annotations

from pathlib import Path

from xlm_runtime.errors import InputError
from xlm_runtime.machine import available_cpus
from xlm_runtime.sessions.gpu.options import GpuOptions
from xlm_runtime.sessions.session import Array, CachingSession, Session

__all__ = [
    "BUILDING_PROVIDERS",
    "GPU_PROVIDERS",
    "PROVIDERS",
    "Array",
    "CachingSession",
    "GpuOptions",
    "Session",
    "available_cpus",
    "open_session",
]

PROVIDERS = ("cpu", "cuda", "openvino", "tensorrt", "tensorrt-ep")
GPU_PROVIDERS = ("cuda", "tensorrt", "tensorrt-ep")
BUILDING_PROVIDERS = ("openvino", "tensorrt", "tensorrt-ep")
"""those that build something which an engine cache keeps"""


def open_session(
    path: str | Path,
    provider: str = "cpu",
    threads: int | None = None,
    gpu: GpuOptions | None = None,
    engine_cache: str | Path | None = None,
) -> Session:
    """Load the graph in `path`.

    Args:
        provider: "cpu" (ONNX Runtime) or "openvino" on the CPU; "cuda" (ONNX Runtime), "tensorrt" (an engine that was
            built from the graph) or "tensorrt-ep" (ONNX Runtime's TensorRT provider) on a GPU.
        threads: threads of one call on the CPU; by default as many as the CPUs that this process may use.
        gpu: options of the providers on a GPU.
        engine_cache: folder for what is built on this machine: compiled graphs of openvino, which keeps none by
            default; engines of tensorrt-ep and kernels of TensorRT-RTX, by default in the bundle's `engines`.

    Raises:
        InputError: an unknown provider, no positive number of threads, options that the provider does not have, or an
            engine cache that cannot be used.
        BundleError: openvino's engine cache is asked for, and the bundle's files have changed.
        MissingExtraError: the engine is not installed.
        EngineError: the engine cannot use the provider or load the graph; there is no silent fall-back.
    """
    if provider not in PROVIDERS:
        raise InputError(f"Unknown provider '{provider}'; expected one of {', '.join(PROVIDERS)}.")
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected a positive number.")
    if gpu is not None and provider not in GPU_PROVIDERS:
        raise InputError(f"Options for a GPU were given, but provider '{provider}' computes on the CPU; choose one of "
                         f"{', '.join(GPU_PROVIDERS)}.")  # fmt: skip
    if engine_cache is not None and provider not in BUILDING_PROVIDERS:
        raise InputError(f"An engine cache was given, but provider '{provider}' builds nothing that could be kept; "
                         f"choose one of {', '.join(BUILDING_PROVIDERS)}, or leave it out.")  # fmt: skip
    path, gpu = Path(path), gpu or GpuOptions()
    cache = None if engine_cache is None else Path(engine_cache)
    threads = available_cpus() if threads is None else threads
    if provider == "tensorrt":
        from xlm_runtime.sessions.gpu.opening import open_engine

        return open_engine(path, gpu, cache)
    if provider in GPU_PROVIDERS:
        from xlm_runtime.sessions.gpu.opening import open_onnxruntime

        return open_onnxruntime(path, provider, threads, gpu, cache)
    if provider == "openvino":
        from xlm_runtime.sessions.openvino_session import OpenVinoSession

        return OpenVinoSession(path, threads=threads, engine_cache=cache)
    from xlm_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(path, threads=threads)
