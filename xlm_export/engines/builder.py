"""A bundle's graph becomes a TensorRT engine, beside its stamp in the bundle's folder `engines`."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir

from xlm_export.engines.concat_past import concat_past
from xlm_export.engines.profiles import custom_profile, preset_profiles
from xlm_export.engines.report import TYPES, EngineReport, NetworkTypes, make_report
from xlm_export.engines.trt import OPTIMIZATION_LEVELS, BuildOptions, Parsed, Toolkit
from xlm_export.onnx_graph.file import save
from xlm_export.progress import Progress, Steps
from xlm_runtime.bundle import Bundle, Graph, file_sha256
from xlm_runtime.bundle.atomic import drafts, write_bytes
from xlm_runtime.bundle.engine_stamp import EngineProfile, EngineStamp
from xlm_runtime.bundle.schema import ENGINES_FOLDER
from xlm_runtime.errors import EngineError, InputError, MissingExtraError

if TYPE_CHECKING:
    import tensorrt

# What tensorrt_rtx compiles for unless told otherwise: every architecture that knows all three precisions.
DEFAULT_ARCHS = ("sm80", "sm86", "sm89", "sm120")

_NAME = re.compile(r"\w[\w.-]*")


def build_engine(
    bundle: str | Path,
    *,
    flavor: str | None = None,
    precision: str | None = None,
    profile: Sequence[str] = (),
    profiles: str | None = None,
    gpu_archs: Sequence[str] = (),
    timing_cache: str | Path | None = None,
    optimization_level: int | None = None,
    version_compatible: bool = False,
    exclude_lean_runtime: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> tuple[EngineStamp, EngineReport]:
    """Build an engine from a padded graph of a bundle.

    It is written to `engines/NAME.plan` with its stamp `engines/NAME.json`, whole or not at all, in place of one of the
    same name. The rest of the bundle stays as it is.

    Args:
        bundle: a folder that `export` wrote.
        flavor: "tensorrt" or "tensorrt-rtx"; by default the first of the two that is installed.
        precision: which of the bundle's graphs, "fp32", "fp16" or "bf16"; by default the first that fits.
        profile: shapes to build for, each `min:opt:max`, see `custom_profile`.
        profiles: or a set of them: "default", "latency", "throughput" or "long", see `PRESETS`.
        gpu_archs: GPU architectures, such as "sm89". `tensorrt` builds for the GPU at hand alone.
        timing_cache: a file that keeps `tensorrt`'s measurements of kernels from one build to the next.
        optimization_level: 0 (builds fast) to 5 (runs fast); by default TensorRT's own.
        version_compatible: with `tensorrt`, for its lean runtime, too, and for later versions of the same major
            version; the plan carries a lean runtime of its own for that, 105 MB of code.
        exclude_lean_runtime: with `version_compatible`, for the same version alone, in a plan that carries none.
        name: of the files; by default flavour, precision, architectures and "version-compatible".
        progress: see `Progress`.

    Raises:
        InputError: options that are unknown or contradict each other, or a bundle without such a graph.
        BundleError: files that are missing or damaged.
        MissingExtraError: the TensorRT module is not installed.
        EngineError: TensorRT refuses the graph or cannot build, or the network does not compute in `precision`.
    """
    steps = Steps(progress, 5)
    _check_options(profile, profiles, optimization_level, name)
    lean_runtime = _lean_runtime(version_compatible, exclude_lean_runtime)
    steps("check the bundle")
    written = Bundle.load(bundle)
    graph = _padded_graph(written, precision)
    if profile:
        chosen = tuple(custom_profile(text, graph, written.config) for text in profile)
    else:
        chosen = preset_profiles(profiles or "default", graph, written.config)
    toolkit = Toolkit(flavor)
    if lean_runtime is not None and toolkit.flavor != "tensorrt":
        raise InputError(
            f"{toolkit.flavor} has no lean runtime; leave out --version-compatible, or use --flavor tensorrt."
        )
    options = BuildOptions(
        _gpu_archs(toolkit, gpu_archs), optimization_level, _read_cache(toolkit, timing_cache), lean_runtime
    )
    written.check_files(written.files_of(graph))
    written.check_weights_in(graph)
    steps(f"parse {graph.file}")
    parsed = _parse(toolkit, written, graph)
    types = NetworkTypes.read(parsed.network)
    types.check(graph.precision, graph.file)
    steps(f"build for {len(chosen)} profiles")
    began = time.perf_counter()
    plan, cache = toolkit.build(parsed, chosen, options)
    seconds = time.perf_counter() - began
    steps("inspect the engine")
    report = make_report(types, toolkit.messages, seconds, plan.nbytes, _inspect(toolkit, plan, options.gpu_archs))
    steps("write the engine")
    kind = [] if lean_runtime is None else ["version-compatible"]
    stem = name or ".".join((toolkit.flavor, graph.precision, "-".join(options.gpu_archs), *kind))
    words = _words(profile, profiles, optimization_level, lean_runtime, name)
    stamp = _write(written, graph, toolkit, options, chosen, plan, stem, words, report)
    if timing_cache is not None and cache is not None:
        write_bytes(Path(timing_cache), cache)
    return stamp, report


def _padded_graph(bundle: Bundle, precision: str | None) -> Graph:
    if precision is not None and precision not in TYPES:
        raise InputError(f"Unknown precision '{precision}' for an engine; expected one of {', '.join(TYPES)}.")
    portable = [graph for graph in bundle.graphs if graph.target is None and graph.precision in TYPES]
    fitting = [graph for graph in portable if precision in (None, graph.precision)]
    for graph in fitting:
        if not graph.is_packed:
            return graph
    if fitting:
        raise InputError(
            f"The bundle '{bundle.folder}' has its {fitting[0].precision} graph in the layout {fitting[0].layout} "
            "only; engines are built from padded graphs. Export the checkpoint in the padded layout."
        )
    there = ", ".join(dict.fromkeys(graph.precision for graph in bundle.graphs))
    wanted = " or ".join(TYPES) if precision is None else precision
    again = precision or "fp16"
    raise InputError(
        f"The bundle '{bundle.folder}' has no graph in {wanted} for TensorRT; it has {there}. Export the checkpoint "
        f"with --precision {again}."
    )


def _parse(toolkit: Toolkit, bundle: Bundle, graph: Graph) -> Parsed:
    """The network of the graph; of one with a cache, in the form that TensorRT fuses."""
    path = bundle.folder / graph.file
    if not graph.has_cache:
        return toolkit.parse(path)
    model = onnx_ir.load(path)
    concat_past(model)
    with tempfile.TemporaryDirectory(prefix=".engine.", dir=bundle.folder) as folder:
        joined = Path(folder, graph.file)
        save(model, joined)
        return toolkit.parse(joined)


def _gpu_archs(toolkit: Toolkit, asked: Sequence[str]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(name.lower() for name in asked))
    available = toolkit.available_archs()
    if available:
        for name in wanted:
            if name not in available:
                raise InputError(
                    f"{toolkit.flavor} {toolkit.version} does not build for the GPU '{name}'; expected some of "
                    f"{', '.join(available)}. For another GPU use --flavor tensorrt on a machine that has it."
                )
        return wanted or DEFAULT_ARCHS
    here = _architecture(f"An engine of {toolkit.flavor}")
    if wanted not in ((), (here,)):
        raise InputError(
            f"{toolkit.flavor} builds for the GPU at hand, which is {here}, not for {', '.join(wanted)}; leave out "
            "--gpu-arch, or use --flavor tensorrt-rtx."
        )
    return (here,)


def _architecture(purpose: str) -> str:
    """The architecture of the first GPU, such as "sm89".

    Raises:
        MissingExtraError, EngineError: see `CudaDevice`.
    """
    from xlm_runtime.sessions.gpu.cuda_device import CudaDevice

    device = CudaDevice(0, purpose, "tensorrt")
    architecture = device.architecture
    device.close()
    return architecture


def _inspect(toolkit: Toolkit, plan: tensorrt.IHostMemory, gpu_archs: tuple[str, ...]) -> dict[str, Any] | str:
    """What the inspector says, or why it cannot be asked: an engine is loaded on a GPU that it is for."""
    try:
        here = _architecture("The engine inspector")
    except (MissingExtraError, EngineError) as error:
        return f"not asked, it needs a GPU. {error}"
    if here not in gpu_archs:
        return f"not asked, the GPU here is {here} and the engine for {', '.join(gpu_archs)}"
    return toolkit.inspect(plan)


def _read_cache(toolkit: Toolkit, path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    if toolkit.flavor == "tensorrt-rtx":
        raise InputError("tensorrt-rtx keeps no timing cache, since it measures no kernels; leave out --timing-cache.")
    return Path(path).read_bytes() if Path(path).exists() else b""


def _check_options(
    profile: Sequence[str], profiles: str | None, optimization_level: int | None, name: str | None
) -> None:
    if profile and profiles is not None:
        raise InputError("--profile and --profiles contradict each other; give the one or the other.")
    if optimization_level is not None and optimization_level not in OPTIMIZATION_LEVELS:
        raise InputError(
            f"optimization_level is {optimization_level}; expected {OPTIMIZATION_LEVELS.start} to "
            f"{OPTIMIZATION_LEVELS.stop - 1}."
        )
    if name is not None and not _NAME.fullmatch(name):
        raise InputError(f"The engine's name '{name}' is not one for a file; use letters, digits, '.', '_' and '-'.")


def _lean_runtime(version_compatible: bool, exclude: bool) -> str | None:
    if exclude and not version_compatible:
        raise InputError("--exclude-lean-runtime is for version-compatible engines; give --version-compatible, too.")
    if not version_compatible:
        return None
    return "excluded" if exclude else "included"


def _words(
    profile: Sequence[str],
    profiles: str | None,
    optimization_level: int | None,
    lean_runtime: str | None,
    name: str | None,
) -> tuple[str, ...]:
    """Options of the command line, for the stamp."""
    given: list[tuple[str, ...]] = [("--profile", text) for text in profile]
    given += [("--profiles", profiles)] if profiles is not None else []
    given += [("--optimization-level", str(optimization_level))] if optimization_level is not None else []
    given += [("--version-compatible",)] if lean_runtime is not None else []
    given += [("--exclude-lean-runtime",)] if lean_runtime == "excluded" else []
    given += [("--name", name)] if name is not None else []
    return tuple(word for words in given for word in words)


def _write(
    bundle: Bundle,
    graph: Graph,
    toolkit: Toolkit,
    options: BuildOptions,
    profiles: tuple[EngineProfile, ...],
    plan: tensorrt.IHostMemory,
    stem: str,
    words: tuple[str, ...],
    report: EngineReport,
) -> EngineStamp:
    """Plan and stamp; at no moment does a stamp stand beside another plan than its own."""
    folder = bundle.folder / ENGINES_FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{stem}.plan"
    try:
        with drafts(path) as (draft,):
            draft.write_bytes(memoryview(plan))
            stamp = EngineStamp(
                flavor=toolkit.flavor,
                version=toolkit.version,
                gpu_archs=options.gpu_archs,
                precision=graph.precision,
                profiles=profiles,
                graph=graph.file,
                sources={name: bundle.files[name] for name in bundle.files_of(graph)},
                plan=f"{ENGINES_FOLDER}/{path.name}",
                plan_sha256=file_sha256(draft),
                inputs=graph.inputs,
                outputs=graph.outputs,
                options=words,
                lean_runtime=options.lean_runtime,
            )
            path.with_suffix(".json").unlink(missing_ok=True)
        stamp.write(path.with_suffix(".json"), report.to_dict())
    except BaseException:
        if not any(folder.iterdir()):
            folder.rmdir()
        raise
    return stamp
