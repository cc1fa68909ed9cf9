"""Which provider and which of a bundle's graphs: as asked for, or for provider "auto" the best on this machine."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.util import find_spec

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.bundle.bundle import ENGINES
from xlm_runtime.bundle.timings import Record, read_records, relative_totals, this_machine, visible_gpu
from xlm_runtime.errors import BundleError, InputError, MissingExtraError
from xlm_runtime.model.packing import INDEX_INPUTS
from xlm_runtime.sessions import GpuOptions, available_cpus
from xlm_runtime.tasks import LAYOUTS

AUTO = "auto"

# What "auto" takes without a calibration is the first of these that is there.
ORDER = ("tensorrt", "cuda", "cpu", "openvino")

# what a pipeline can feed; a graph that was exported with further inputs is for other programs
_FED = ("input_ids", "attention_mask", "langs", "logit_positions", "p_mask", "cls_index")
# and, of a graph with a cache, also its positions and the past
PAST = "past_key_values."

Gpu = tuple[str, str] | None
"""name and architecture of the GPU"""


@dataclass(frozen=True)
class Choice:
    """What "auto" takes; `reason` is a sentence."""

    provider: str
    graph: Graph
    reason: str


def choose_graph(bundle: Bundle, precision: str | None, provider: str, gpu: GpuOptions | None) -> Graph:
    """The graph of a precision; by default what was made for the provider comes first.

    Raises:
        InputError: there is none.
        EngineError: tensorrt: no engine in this precision.
    """
    if provider == "tensorrt":
        from xlm_runtime.sessions.gpu.opening import engines_of

        files = [stamp.graph for stamp in engines_of(bundle, precision=precision, name=gpu.engine if gpu else None)]
        return next((graph for graph in bundle.graphs if graph.file in files), bundle.graph(precision, provider))
    own = [graph.precision for graph in bundle.graphs if graph.target == "onnxruntime-cuda"]
    return bundle.graph(own[0] if own and precision is None and provider == "cuda" else precision, provider)


def choose(bundle: Bundle, precision: str | None, threads: int | None, gpu: GpuOptions | None) -> Choice:
    """Provider "auto".

    Among the graphs of one precision (by default that of the bundle's first graph, since another one answers with
    another quality): the graph and provider with the least `relative_totals` in the record of this machine, number of
    threads and engine versions; without such a record the first of `ORDER` that is installed and takes a graph.

    Raises:
        InputError: no graph in this precision, or none that an installed engine takes.
        BundleError: damaged records.
        MissingExtraError: no engine is installed.
    """
    wanted = bundle.graphs[0].precision if precision is None else precision
    bundle.graph(wanted)  # an unknown precision is refused here
    found = visible_gpu(gpu.device if gpu else 0)
    machine = this_machine(available_cpus() if threads is None else threads, found[0] if found else None)
    records = [record for record in read_records(bundle) if record.machine == machine]
    measured = _measured(bundle, wanted, records[-1], found, gpu) if records else None
    return measured or _installed(bundle, wanted, found, gpu)


def check_graph(graph: Graph, bundle: Bundle) -> None:
    """Whether pipelines can feed a graph.

    Raises:
        BundleError: an unknown layout, or inputs that pipelines do not give.
    """
    if graph.layout not in LAYOUTS:
        raise BundleError(
            f"The graph '{graph.file}' of the bundle '{bundle.folder}' has the layout '{graph.layout}'; this version "
            f"reads {' and '.join(LAYOUTS)}. Upgrade xlm-onnx, or export it again."
        )
    names = [spec.name for spec in graph.inputs]
    past = [name for name in names if name.startswith(PAST)]
    fed = (*_FED, "position_ids", *past) if past else _FED
    if graph.is_packed:
        fed = (*_FED, *INDEX_INPUTS)
    foreign = [name for name in names if name not in fed]
    if foreign:
        raise BundleError(
            f"The graph '{graph.file}' of the bundle '{bundle.folder}' asks for {', '.join(foreign)}, which pipelines "
            "do not give. Export it again without --inputs, or feed it through open_session."
        )


def takes(graph: Graph, provider: str) -> bool:
    """Whether a provider takes a graph, as far as the bundle tells: ONNX Runtime has no bf16 on the CPU."""
    return graph.target in (None, ENGINES.get(provider)) and (provider, graph.precision) != ("cpu", "bf16")


def is_installed(provider: str) -> bool:
    """Whether the package of a provider on the CPU is there."""
    name = {"cpu": "onnxruntime", "openvino": "openvino"}[provider]
    return sys.modules[name] is not None if name in sys.modules else find_spec(name) is not None


def _measured(bundle: Bundle, precision: str, record: Record, found: Gpu, gpu: GpuOptions | None) -> Choice | None:
    graphs = {graph.file: graph for graph in bundle.graphs if graph.precision == precision}
    timings = [
        timing
        for timing in record.timings
        if timing.graph in graphs
        and timing.digest == bundle.digest(graphs[timing.graph])
        and (timing.provider != "tensorrt" or _fitting_engine(bundle, precision, found, gpu) is not None)
    ]
    totals = relative_totals(timings)
    if not totals:
        return None
    _, best = totals[0]
    why = f"it took the least time of {len(totals)} combinations in {precision} in the calibration of {record.date}."
    if len(totals) == 1:
        why = f"nothing else could be opened in {precision} in the calibration of {record.date}."
    return Choice(best.provider, graphs[best.graph], f"{best.provider} with {best.graph}: {why}")


def _installed(bundle: Bundle, precision: str, found: Gpu, gpu: GpuOptions | None) -> Choice:
    for provider in ORDER:
        graph = _graph_for(bundle, precision, provider, found, gpu)
        if graph is not None:
            reason = (
                f"{provider} with {graph.file}: the bundle has no calibration for this machine, number of threads and "
                f"engines, and of {', '.join(ORDER)} it is the first that is there."
            )
            return Choice(provider, graph, reason)
    if not is_installed("cpu") and not is_installed("openvino"):
        raise MissingExtraError(
            "onnxruntime", "cpu", "provider='auto' found no engine (extras: cpu, openvino, gpu, tensorrt), and"
        )
    raise InputError(f"provider='auto': no installed engine takes a graph of the bundle '{bundle.folder}' in precision "
                     f"'{precision}'. Install another one (extras: cpu, openvino, gpu, tensorrt), or choose another "
                     "precision.")  # fmt: skip


def _graph_for(bundle: Bundle, precision: str, provider: str, found: Gpu, gpu: GpuOptions | None) -> Graph | None:
    """The graph that a provider would take, or None where the provider is not there or takes none."""
    if provider == "tensorrt":
        file = _fitting_engine(bundle, precision, found, gpu)
        return next((graph for graph in bundle.graphs if graph.file == file), None)
    if not (_has_cuda(found) if provider == "cuda" else is_installed(provider)):
        return None
    if not any(graph.precision == precision and takes(graph, provider) for graph in bundle.graphs):
        return None
    return bundle.graph(precision, provider)


def _has_cuda(found: Gpu) -> bool:
    """Whether there is a device and an ONNX Runtime for it."""
    if found is None or not is_installed("cpu"):
        return False
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def _fitting_engine(bundle: Bundle, precision: str, found: Gpu, gpu: GpuOptions | None) -> str | None:
    """The graph that the bundle's first engine for this GPU was built from."""
    if found is None:
        return None
    from xlm_runtime.sessions.gpu.opening import engine_that_fits

    stamp = engine_that_fits(bundle, precision, found[1], gpu.engine if gpu else None)
    return stamp.graph if stamp else None
