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
from xlm_runtime.sessions.gpu.tensorrt_modules import MODULES
from xlm_runtime.sessions.onnxruntime_session import import_onnxruntime, open_inference_session, session_options
from xlm_runtime.sessions.session import GraphSource, SessionOptions


def open_engine(source: GraphSource, provider: Provider, options: SessionOptions) -> GpuSession:
    """`Opener` of provider "tensorrt": an engine that was built from the graph of a bundle.

    `engine_cache` is a folder for kernels that TensorRT-RTX compiles; by default the bundle's `engines`.

    Raises:
        BundleError: the graph lies in no bundle.
        EngineError: no engine fits, with the command that builds one, or it carries code that has no leave to run; no
            device, or an unfit driver.
        MissingExtraError: a package is missing.
    """
    bundle = source.bundle or Bundle.load(source.path.parent)
    stamps = engines_of(bundle, graph=source.path.name, name=options.gpu.engine)
    device = CudaDevice(options.gpu.device, f"provider='{provider.name}'", provider.extra)
    try:
        stamp, trt = _fitting(bundle, stamps, device.architecture, options.gpu.engine_host_code)
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


def engine_that_fits(
    bundle: Bundle, precision: str, architecture: str, name: str | None = None, host_code: bool = False
) -> EngineStamp | None:
    """The first engine in a precision that a GPU and the installed TensorRT can load, if there is one.

    Args:
        host_code: whether it may carry code, see `GpuOptions`.
    """
    try:
        return _fitting(bundle, engines_of(bundle, precision=precision, name=name), architecture, host_code)[0]
    except (EngineError, MissingExtraError):
        return None


def _fitting(bundle: Bundle, stamps: list[EngineStamp], architecture: str, host_code: bool) -> tuple[EngineStamp, Any]:
    """The first engine that this machine can load, and the module that does.

    Raises:
        EngineError: the first one's misfit, where none fits, or that it carries code that has no leave to run.
    """
    failure: Exception | None = None
    withheld: EngineStamp | None = None
    for stamp in stamps:
        try:
            trt = _module_for(bundle, stamp, architecture)
        except (EngineError, MissingExtraError) as error:
            failure = failure or error
            continue
        if host_code or stamp.lean_runtime != "included":
            return stamp, trt
        withheld = withheld or stamp
    if withheld is not None:
        raise EngineError(
            f"The engine '{bundle.folder / withheld.plan}' carries TensorRT's lean runtime, code that would run "
            "in this process. If you trust where the bundle comes from, allow it with "
            "GpuOptions(engine_host_code=True) or --engine-host-code; or build an engine that carries none, with "
            "--version-compatible --exclude-lean-runtime."
        )
    raise failure or EngineError(f"The bundle '{bundle.folder}' has no engine.")


def _module_for(bundle: Bundle, stamp: EngineStamp, architecture: str) -> Any:
    """The first installed module that runs an engine.

    Raises:
        EngineError, MissingExtraError: none is installed, or the first one's misfit.
    """
    if stamp.flavor not in MODULES:
        raise EngineError(f"The engine '{stamp.plan}' is of the unknown flavor '{stamp.flavor}'; upgrade xlm-onnx.")
    misfit: EngineError | None = None
    missing: ImportError | None = None
    for name, lean in MODULES[stamp.flavor]:
        try:
            trt = importlib.import_module(name)
        except ImportError as error:
            missing = error
            continue
        try:
            stamp.check(bundle, stamp.flavor, trt.__version__, architecture, lean=lean)
        except EngineError as error:
            misfit = misfit or error
        else:
            return trt
    if misfit is not None:
        raise misfit
    raise _not_installed(stamp) from missing


def _not_installed(stamp: EngineStamp) -> EngineError | MissingExtraError:
    if stamp.flavor == "tensorrt-rtx":
        return MissingExtraError("tensorrt-rtx", "tensorrt", f"The engine '{stamp.plan}'")
    packages = ["tensorrt"] if stamp.lean_runtime is None else ["tensorrt", "tensorrt-lean-cu13", "tensorrt-lean-cu12"]
    commands = " or ".join(f"pip install {package}=={stamp.version}" for package in packages)
    return EngineError(f"The engine '{stamp.plan}' needs TensorRT {stamp.version}, which is not installed: {commands}")


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
    graph = source.graph
    if gpu.cuda_graphs and graph is not None and graph.is_packed and not graph.tells_rows:
        raise InputError(
            f"The attention of '{graph.file}' takes packs, which have too many shapes for CUDA graphs. Rewrite it with "
            "`xlm-export optimize --target onnxruntime-cuda`, or leave out cuda_graphs (--cuda-graphs)."
        )
    captured = gpu.captures(provider, graph)
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
        elif captured:
            cuda["enable_cuda_graph"] = "1"
        with _flash_attention_at_every_length():
            settings = session_options(onnxruntime, options.threads)
            session = open_inference_session(onnxruntime, source.path, provider, providers, settings)
        name = source.path.name
        engine = OnnxRuntimeExecutor(onnxruntime, session, device, name=name, profiles=profiles, captured=captured)
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
