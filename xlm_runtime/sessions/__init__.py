"""Sessions: one graph in one engine. Engines are imported when a session is opened."""

from __future__ import annotations

from pathlib import Path

from xlm_runtime.errors import InputError
from xlm_runtime.sessions.cpus import available_cpus
from xlm_runtime.sessions.session import Array, Session

__all__ = ["PROVIDERS", "Array", "Session", "available_cpus", "open_session"]

PROVIDERS = ("cpu", "cuda", "openvino")


def open_session(path: str | Path, provider: str = "cpu", threads: int | None = None) -> Session:
    """Load the graph in `path`.

    Args:
        provider: "cpu" or "cuda" (ONNX Runtime), or "openvino" (on the CPU).
        threads: threads of one call on the CPU; by default as many as the CPUs that this process may use.

    Raises:
        InputError: an unknown provider, or no positive number of threads.
        MissingExtraError: the engine is not installed.
        EngineError: the engine cannot use the provider or load the graph; there is no silent fall-back.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; expected a positive number.")
    threads = available_cpus() if threads is None else threads
    if provider in ("cpu", "cuda"):
        from xlm_runtime.sessions.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(Path(path), provider=provider, threads=threads)
    if provider == "openvino":
        from xlm_runtime.sessions.openvino_session import OpenVinoSession

        return OpenVinoSession(Path(path), threads=threads)
    raise InputError(f"Unknown provider '{provider}'; expected one of {', '.join(PROVIDERS)}.")
