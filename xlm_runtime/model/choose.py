"""Which provider and which of a bundle's graphs: as asked for, or for provider "auto" the best on this machine.

Where no provider is asked for, a bundle that was made for some (`Bundle.providers`) is opened as by "auto", which then
tries those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.bundle.timings import Record, read_records, relative_totals
from xlm_runtime.errors import InputError, MissingExtraError
from xlm_runtime.machine import available_cpus, this_machine, visible_gpu
from xlm_runtime.providers import PROVIDERS, Provider, auto_order, find_provider, is_installed, provider_packages
from xlm_runtime.sessions import GpuOptions

VisibleGpu = tuple[str, str] | None
"""Name and architecture of the GPU."""


@dataclass(frozen=True)
class Chosen:
    """The provider and graph that were chosen; `reason` is a sentence."""

    provider: str
    graph: Graph
    reason: str


def choose_graph(bundle: Bundle, precision: str | None, provider: str, gpu: GpuOptions | None) -> Graph:
    """The graph of a precision or recipe; by default what was made for the provider comes first.

    Raises:
        InputError: there is none.
        EngineError: a provider that reads engines, and no engine in this precision.
    """
    row = find_provider(provider)
    if row.reads_engines:
        from xlm_runtime.sessions.gpu.opening import engines_of

        files = [stamp.graph for stamp in engines_of(bundle, precision=precision, name=gpu.engine if gpu else None)]
        return next((graph for graph in bundle.graphs if graph.file in files), bundle.graph(precision, provider))
    if precision is None and row.follows_target:
        own = [graph.precision for graph in bundle.graphs if not graph.is_portable and graph.target in row.targets]
        precision = own[0] if own else None
    return bundle.graph(precision, provider)


def choose(
    bundle: Bundle,
    precision: str | None,
    threads: int | None,
    gpu: GpuOptions | None,
    order: Sequence[str] | None = None,
) -> Chosen:
    """Provider "auto".

    Among the graphs of one quality (by default that of the bundle's first graph, since another precision or recipe
    answers otherwise): the graph and provider with the least `relative_totals` in the record of this machine, number
    of threads and package versions; without such a record the first of `order` that is installed and takes one.

    Args:
        order: providers, `auto_order` by default; names of providers that later versions have are left out.

    Raises:
        InputError: no graph in this precision, or none that an installed provider takes.
        BundleError: damaged records.
        MissingExtraError: no provider is installed.
    """
    wanted = bundle.graph(precision).quality  # an unknown precision is refused here
    found = visible_gpu(gpu.device if gpu else 0)
    cpus = available_cpus() if threads is None else threads
    machine = this_machine(cpus, found[0] if found else None, provider_packages())
    records = [record for record in read_records(bundle) if record.machine == machine]
    measured = _measured(bundle, wanted, records[-1], found, gpu) if records else None
    return measured or _installed(bundle, wanted, found, gpu, order or auto_order())


def _measured(
    bundle: Bundle, precision: str, record: Record, found: VisibleGpu, gpu: GpuOptions | None
) -> Chosen | None:
    graphs = {graph.file: graph for graph in _of_precision(bundle, precision)}
    timings = [
        timing
        for timing in record.timings
        if timing.graph in graphs
        and timing.digest == bundle.digest(graphs[timing.graph])
        and not (_reads_engines(timing.provider) and _fitting_engine(bundle, precision, found, gpu) is None)
    ]
    totals = relative_totals(timings)
    if not totals:
        return None
    _, best = totals[0]
    why = f"it took the least time of {len(totals)} combinations in {precision} when timed on {record.date}."
    if len(totals) == 1:
        why = f"nothing else could be opened in {precision} when timed on {record.date}."
    return Chosen(best.provider, graphs[best.graph], f"{best.provider} with {best.graph}: {why}")


def _installed(
    bundle: Bundle, precision: str, found: VisibleGpu, gpu: GpuOptions | None, order: Sequence[str]
) -> Chosen:
    known = [name for name in order if name in PROVIDERS]
    for provider in known:
        graph = _graph_for(bundle, precision, find_provider(provider), found, gpu)
        if graph is not None:
            reason = (
                f"{provider} with {graph.file}: the bundle has no times of this machine, number of threads and "
                f"package versions, and of {', '.join(order)} it is the first that is there."
            )
            return Chosen(provider, graph, reason)
    extras = ", ".join(dict.fromkeys(PROVIDERS[name].extra for name in known))
    on_cpu = [PROVIDERS[name] for name in known if not PROVIDERS[name].on_gpu]
    if on_cpu and not any(map(is_installed, on_cpu)):
        purpose = f"No provider's package was found (extras: {extras}), and opening the bundle"
        raise MissingExtraError("onnxruntime", "cpu", purpose)
    raise InputError(f"None of the providers {', '.join(order)} is installed, has its device and takes a graph of the "
                     f"bundle '{bundle.folder}' in precision '{precision}'. Install another one (extras: {extras}), or "
                     "choose another precision.")  # fmt: skip


def _graph_for(
    bundle: Bundle, precision: str, row: Provider, found: VisibleGpu, gpu: GpuOptions | None
) -> Graph | None:
    """The graph that a provider would take, or None where the provider is not there or takes none."""
    if row.reads_engines:
        file = _fitting_engine(bundle, precision, found, gpu)
        return next((graph for graph in bundle.graphs if graph.file == file), None)
    if not is_installed(row) or (row.on_gpu and not has_device(row, found)):
        return None
    if not any(row.takes(graph.target, graph.layout, graph.precision) for graph in _of_precision(bundle, precision)):
        return None
    return bundle.graph(precision, row.name)


def _of_precision(bundle: Bundle, precision: str) -> list[Graph]:
    return [graph for graph in bundle.graphs if graph.quality == precision]


def _reads_engines(provider: str) -> bool:
    return provider in PROVIDERS and PROVIDERS[provider].reads_engines


def has_device(row: Provider, found: VisibleGpu) -> bool:
    """Whether there is a device, and an ONNX Runtime for it."""
    if found is None:
        return False
    import onnxruntime

    return row.execution_provider in onnxruntime.get_available_providers()


def _fitting_engine(bundle: Bundle, precision: str, found: VisibleGpu, gpu: GpuOptions | None) -> str | None:
    """The graph that the bundle's first engine for this GPU was built from."""
    if found is None:
        return None
    from xlm_runtime.sessions.gpu.opening import engine_that_fits

    options = gpu or GpuOptions()
    stamp = engine_that_fits(bundle, precision, found[1], options.engine, options.engine_host_code)
    return stamp.graph if stamp else None
