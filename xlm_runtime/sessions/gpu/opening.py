"""Opens sessions on a GPU: finds the engine, checks what it needs, and says what is missing."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import BUNDLE_FILE, Bundle
from xlm_runtime.bundle.engine_stamp import EngineStamp, build_command, find_stamps
from xlm_runtime.bundle.schema import ENGINES_FOLDER
from xlm_runtime.errors import EngineError, InputError, MissingExtraError
from xlm_runtime.providers import Provider
from xlm_runtime.sessions.gpu.cuda_device import CudaDevice
from xlm_runtime.sessions.gpu.onnxruntime_executor import OnnxRuntimeExecutor, plan_profiles, provider_options
from xlm_runtime.sessions.gpu.planning import Profile
from xlm_runtime.sessions.gpu.session import GpuSession
from xlm_runtime.sessions.gpu.tensorrt_engine import TensorRTEngine
from xlm_runtime.sessions.onnxruntime_session import import_onnxruntime, open_inference_session
from xlm_runtime.sessions.session import GraphSource, SessionOptions
from xlm_runtime.tasks import TOKEN_OFFSET

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


def open_engine(source: GraphSource, provider: Provider, options: SessionOptions) -> GpuSession:
    """`Opener` of provider "tensorrt": an engine that was built from the graph of a bundle.

    `engine_cache` is a folder for kernels that TensorRT-RTX compiles; by default the bundle's `engines`.

    Raises:
        BundleError: the graph lies in no bundle.
        EngineError: no engine fits, with the command that builds one; no device, or an unfit driver.
        MissingExtraError: a package is missing.
    """
    bundle = source.bundle or Bundle.load(source.path.parent)
    stamps = engines_of(bundle, graph=source.path.name, name=options.gpu.engine)
    device = CudaDevice(options.gpu.device, f"provider='{provider.name}'", provider.extra)
    try:
        stamp, trt = _fitting(bundle, stamps, device.architecture)
        file = bundle.folder / stamp.plan
        kernels = (
            options.engine_cache or bundle.folder / ENGINES_FOLDER
        ) / f"{file.stem}.{device.architecture}.kernels"
        engine = TensorRTEngine(trt, file, stamp, device, kernels)
        graphs = options.gpu.max_graphs if options.gpu.captures(provider, None) else 0
        return GpuSession(engine, device, buckets=bool(graphs), graphs=graphs)
    except BaseException:
        device.close()
        raise


def engines_of(
    bundle: Bundle, *, graph: str | None = None, name: str | None = None, precision: str | None = None
) -> list[EngineStamp]:
    """The stamps of a bundle's engines.

    Args:
        graph: only engines that were built from this file.
        name: only the engine of this name.
        precision: only engines in this precision.

    Raises:
        EngineError: there is none.
    """
    stamps = find_stamps(bundle)
    fitting = [
        stamp
        for stamp in stamps
        if graph in (None, stamp.graph)
        and name in (None, Path(stamp.plan).stem)
        and precision in (None, stamp.precision)
    ]
    if fitting:
        return fitting
    of_graph = next((each.precision for each in bundle.graphs if each.file == graph), None)
    asked = [f"'{name}'"] if name else []
    asked += [f"in precision '{precision}'"] if precision else []
    asked += [f"for '{graph}'"] if graph else []
    there = ", ".join(f"{Path(stamp.plan).stem} ({stamp.precision}, from {stamp.graph})" for stamp in stamps)
    raise EngineError(
        f"The bundle '{bundle.folder}' has no engine {' '.join(asked)}".rstrip()
        + (f", only {there}" if there else "")
        + f". Build one: {build_command(bundle, 'tensorrt', precision or of_graph)}"
    )


def engine_that_fits(bundle: Bundle, precision: str, architecture: str, name: str | None = None) -> EngineStamp | None:
    """The first engine in a precision that a GPU and the installed TensorRT can load, if there is one."""
    try:
        return _fitting(bundle, engines_of(bundle, precision=precision, name=name), architecture)[0]
    except (EngineError, MissingExtraError):
        return None


def _fitting(bundle: Bundle, stamps: list[EngineStamp], architecture: str) -> tuple[EngineStamp, Any]:
    """The first engine that this machine can load, and the module that does.

    Raises:
        EngineError: the first one's misfit, where none fits.
    """
    failure: Exception | None = None
    for stamp in stamps:
        try:
            trt = _import_tensorrt(stamp)
            stamp.check(bundle, stamp.flavor, trt.__version__, architecture)
            return stamp, trt
        except (EngineError, MissingExtraError) as error:
            failure = failure or error
    raise failure or EngineError(f"The bundle '{bundle.folder}' has no engine.")


def _import_tensorrt(stamp: EngineStamp) -> Any:
    if stamp.flavor not in _MODULES:
        raise EngineError(f"The engine '{stamp.plan}' is of the unknown flavor '{stamp.flavor}'; upgrade xlm-onnx.")
    module = _MODULES[stamp.flavor]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if stamp.flavor == "tensorrt-rtx":
            raise MissingExtraError("tensorrt-rtx", "tensorrt", f"The engine '{stamp.plan}'") from error
        raise EngineError(
            f"The engine '{stamp.plan}' needs TensorRT {stamp.version}, which is not installed: "
            f"pip install tensorrt=={stamp.version}"
        ) from error


def open_onnxruntime(source: GraphSource, provider: Provider, options: SessionOptions) -> GpuSession:
    """`Opener` of "cuda" and "tensorrt-ep": a graph in ONNX Runtime, with its inputs and outputs on the device.

    `engine_cache` is a folder for engines that tensorrt-ep builds; by default the bundle's `engines`.

    Raises:
        InputError: an option that the provider does not have.
        EngineError: this onnxruntime lacks the provider or cannot start it; no device, or an unfit driver.
        MissingExtraError: a package is missing.
    """
    gpu = options.gpu
    if provider.builds and gpu.cuda_graphs:
        raise InputError(f"provider='{provider.name}' captures no CUDA graphs; use provider='tensorrt', or leave them "
                         "out.")  # fmt: skip
    onnxruntime = import_onnxruntime(provider)
    device = CudaDevice(gpu.device, f"provider='{provider.name}'", provider.extra)
    try:
        common = {"device_id": str(gpu.device), "user_compute_stream": str(device.stream)}
        # with "same as requested" the arena grows by what a call needs, not to the next power of two; without TF32 the
        # products of an fp32 graph are in fp32
        cuda = common | {"arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
        profiles: tuple[Profile, ...] = ()
        providers: list[Any] = [("CUDAExecutionProvider", cuda)]
        if provider.builds:
            entry = source.find_entry()
            if entry is None:
                raise EngineError(f"provider='{provider.name}' reads the shapes of '{source.path}' from a bundle, but "
                                  f"no {BUNDLE_FILE} lies beside it; use provider='cuda'.")  # fmt: skip
            bundle, graph = entry
            profiles, shapes = plan_profiles(graph, bundle.config, gpu.profiles)
            own = provider_options(graph, shapes, options.engine_cache or bundle.folder / ENGINES_FOLDER)
            providers.insert(0, (provider.execution_provider, common | own))
        captured = gpu.captures(provider, source.graph)
        if captured:
            cuda["enable_cuda_graph"] = "1"
        with _flash_attention_at_every_length():
            session = open_inference_session(onnxruntime, source.path, provider, providers, options.threads)
        name = source.path.name
        engine = OnnxRuntimeExecutor(onnxruntime, session, device, name=name, profiles=profiles, captured=captured)
        packed = any("tokens" in tensor.axes for tensor in engine.inputs)
        if captured and packed and not any(tensor.name == TOKEN_OFFSET for tensor in engine.inputs):
            raise InputError(
                f"The attention of '{name}' takes packs, which have too many shapes for CUDA graphs. Rewrite it with "
                "`xlm-export optimize --target onnxruntime-cuda`, or leave out cuda_graphs (--cuda-graphs)."
            )
        return GpuSession(engine, device, buckets=captured, graphs=gpu.max_graphs if captured else 0)
    except BaseException:
        device.close()
        raise


@contextmanager
def _flash_attention_at_every_length() -> Iterator[None]:
    """ONNX Runtime's packed attention in half precision takes flash attention for rows of 513 places or more, unless
    this variable says otherwise while a session is opened; it is the faster one at every length."""
    name = "ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV"
    if name in os.environ:
        yield
        return
    os.environ[name] = "0"
    try:
        yield
    finally:
        os.environ.pop(name, None)
