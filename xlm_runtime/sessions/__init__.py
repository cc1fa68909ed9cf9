"""Sessions: one graph on one provider, whose package is imported when a session is opened."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from xlm_runtime.errors import InputError
from xlm_runtime.machine import available_cpus, check_threads
from xlm_runtime.providers import building_providers, find_provider, gpu_providers
from xlm_runtime.sessions.gpu.options import GpuOptions
from xlm_runtime.sessions.session import (
    Array,
    CachingSession,
    GraphSource,
    Opener,
    Session,
    SessionOptions,
    StaticCacheSession,
    start_run,
)

__all__ = [
    "Array",
    "CachingSession",
    "GpuOptions",
    "GraphSource",
    "Session",
    "StaticCacheSession",
    "open_session",
    "start_run",
]


def open_session(
    graph: str | Path | GraphSource,
    provider: str = "cpu",
    threads: int | None = None,
    gpu: GpuOptions | None = None,
    engine_cache: str | Path | None = None,
    *,
    cache_required: bool = True,
) -> Session:
    """Load a graph.

    Args:
        graph: the path of an .onnx file, or a graph of an opened bundle, `GraphSource.of(bundle, graph)`.
        provider: "cpu" (ONNX Runtime) or "openvino" on the CPU; "cuda" (ONNX Runtime), "tensorrt" (an engine that was
            built from the graph) or "tensorrt-ep" (ONNX Runtime's TensorRT provider) on a GPU.
        threads: threads of one call on the CPU; by default as many as the CPUs that this process may use.
        gpu: options of the providers on a GPU.
        engine_cache: folder for what is built on this machine: prepared graphs of cpu and compiled ones of openvino,
            which keep none by default; engines of tensorrt-ep and kernels of TensorRT-RTX, by default in the bundle's
            `engines`.
        cache_required: whether an engine cache that cannot be used is an error; without it cpu goes on as if none had
            been given, and keeps no small graphs.

    Raises:
        InputError: an unknown provider, no sensible number of threads, options that the provider does not have, or an
            engine cache that cannot be used.
        BundleError: an engine cache of cpu or openvino is asked for, and the bundle's files have changed.
        MissingExtraError: the provider's package is not installed.
        EngineError: the provider cannot start or cannot load the graph; there is no silent fall-back.
    """
    row = find_provider(provider)
    check_threads(threads)
    if gpu is not None and not row.on_gpu:
        raise InputError(f"Options for a GPU were given, but provider '{provider}' computes on the CPU; choose one of "
                         f"{', '.join(gpu_providers())}.")  # fmt: skip
    if engine_cache is not None and not row.builds:
        raise InputError(f"An engine cache was given, but provider '{provider}' builds nothing that could be kept; "
                         f"choose one of {', '.join(building_providers())}, or leave it out.")  # fmt: skip
    source = graph if isinstance(graph, GraphSource) else GraphSource(Path(graph))
    options = SessionOptions(
        available_cpus() if threads is None else threads,
        gpu or GpuOptions(),
        None if engine_cache is None else Path(engine_cache),
        cache_required,
    )
    return _opener(row.opener)(source, row, options)


def _opener(name: str) -> Opener:
    """The function "module:function", whose module is imported now."""
    module, _, function = name.partition(":")
    opener: Opener = getattr(import_module(module), function)
    return opener
