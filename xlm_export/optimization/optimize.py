"""A bundle's portable graph, rewritten for one provider, as a further graph of the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir

from xlm_export.bundle_writer import add_graph, draft_of, recipe_of, replaced_by
from xlm_export.errors import OptimizationError, VerificationError
from xlm_export.onnx_graph.file import external_files, open_model, save
from xlm_export.optimization.half_precision import too_narrow, write_probe
from xlm_export.optimization.passes import Kept, apply_passes, chosen_passes
from xlm_export.progress import Progress, Steps
from xlm_export.verification.against_graph import outputs_of, verify_against
from xlm_export.verification.on_cpu import open_on_cpu
from xlm_export.verification.report import VerificationReport
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.providers import PROVIDERS
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import find_task

_HALF = ("fp16", "bf16")


@dataclass(frozen=True)
class Optimization:
    """What was made: the bundle as it is now, its new graph, how often each pass matched, how exact it is, and the
    products behind which a graph in half precision normalises in float32 all the same."""

    bundle: Bundle
    graph: Graph
    counts: dict[str, int]
    report: VerificationReport
    kept: tuple[str, ...] = ()


def optimize(
    bundle: str | Path,
    target: str,
    *,
    precision: str | None = None,
    passes: Sequence[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Optimization:
    """Add a graph for one provider to a bundle. The portable graph stays, and the new one reads its weights.

    `bundle.json` names the new file only once it is there and verified; on any error the bundle is as before.

    Args:
        target: a name out of `TARGETS`.
        precision: of the portable graph to begin with, or the recipe that made it; by default the bundle's first.
        passes: names out of `PASSES` instead of the target's own.
        force: replace such a graph that is already there.
        progress: see `Progress`.

    Raises:
        InputError: an unknown name, a pass that this graph has nothing for, or the graph is already there.
        BundleError: files that are missing or damaged.
        OptimizationError: a pass did not match as often as the configuration says.
        VerificationError: the new graph's answers are not the portable one's.
    """
    steps = Steps(progress, 4)
    steps("check the bundle")
    written = Bundle.load(bundle)
    written.check_files()
    source = _portable(written, precision)
    chosen = chosen_passes(source, written.config, target, passes)
    _check_kernels(source, target)
    entry = replace(source, target=target, recipe=recipe_of(written, source))
    entry = replace(entry, file=entry.file_name)
    if replaced_by(written, entry, "optimized") and not force:
        raise InputError(
            f"The bundle '{bundle}' has a graph for {target} in {source.precision} already; use --force (force=True) "
            "to replace it."
        )
    half = source.precision in _HALF
    with draft_of(written) as draft:
        kept: Kept = {}
        if half and any(item.keeps for item in chosen.values()):
            steps.expect(1)
            steps("measure the normalisations")
            kept = _kept_in_float32(written, source, draft)
        steps("match the passes")
        model = open_model(written.folder / source.file)
        counts = apply_passes(model, chosen, written.config, half, kept)
        model.metadata_props["engine"] = target
        task = find_task(written.architecture, written.task)
        for item in chosen.values():
            entry = item.entry(entry, task, written.config)
        _check_inputs(model, entry)
        steps("write the graph")
        save(model, draft)
        entry = replace(entry, weights_in=external_files(model))
        report = _verify(written, source, entry, draft, steps)
        if report.failures:
            raise VerificationError(f"The graph for {target} was not added.\n{report.table()}")
        summary = {"passes": counts, "kept_in_float32": [*kept], "against": source.file, **report.to_dict()}
        made = add_graph(written, draft, source, entry, "optimized", summary)
    return Optimization(made, entry, counts, report, tuple(kept))


def _portable(bundle: Bundle, precision: str | None) -> Graph:
    first = bundle.graphs[0]
    wanted = (recipe_of(bundle, first) or first.precision) if precision is None else precision
    for graph in bundle.graphs:
        if graph.is_portable and wanted in (graph.precision, recipe_of(bundle, graph)):
            return graph
    there = ", ".join(recipe_of(bundle, item) or item.precision for item in bundle.graphs if item.is_portable)
    raise InputError(
        f"The bundle '{bundle.folder}' has no portable graph in precision '{wanted}' to optimise; it has {there}."
    )


def _check_kernels(source: Graph, target: str) -> None:
    takers = [row for row in PROVIDERS.values() if target in row.targets]
    if takers and all(source.precision in row.lacks for row in takers):
        raise InputError(
            f"provider='{takers[0].name}', which takes graphs for {target}, has no kernels for {source.precision}; "
            "choose another target, or another precision with --precision."
        )


def _check_inputs(model: onnx_ir.Model, entry: Graph) -> None:
    found, listed = ([item.name for item in items] for items in (model.graph.inputs, entry.inputs))
    if found != listed:
        raise OptimizationError(
            f"The passes left the inputs {', '.join(map(str, found))}, expected {', '.join(map(str, listed))}: the "
            "graph is not as this version of xlm-export writes it. Export the checkpoint again."
        )


def _kept_in_float32(bundle: Bundle, source: Graph, draft: Path) -> Kept:
    """The normalisations for which half precision is too little, see `half_precision`, and their layers."""
    probe = draft.with_name(f"{draft.name}.probe.onnx")
    found = write_probe(bundle.folder / source.file, probe)
    names = too_narrow(found, source.precision, outputs_of(open_session(probe), bundle, source))
    return {item.name: item.layer for item in found if item.name in names}


def _verify(bundle: Bundle, source: Graph, entry: Graph, made: Path, steps: Steps) -> VerificationReport:
    """On the CPU, whatever the target, since a bundle is often made on a machine without a GPU, see `on_cpu`."""
    steps("open both graphs")
    reference = open_on_cpu(bundle.folder / source.file, made.with_name(f"{made.name}.reference.onnx"))
    candidate = open_on_cpu(made, made.with_name(f"{made.name}.on-cpu.onnx"))
    return verify_against(reference, candidate, bundle, source, entry, "cpu", steps)
