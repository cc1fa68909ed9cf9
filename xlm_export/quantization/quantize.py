"""A bundle's fp32 graph in fewer bits, as a further graph of the bundle, measured against fp32 before it is added."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm_export.bundle_writer import add_graph, draft_bundle, draft_of, replaced_by
from xlm_export.errors import VerificationError
from xlm_export.progress import Progress, Steps
from xlm_export.quantization.metric import METRICS, Data, measure, read_data
from xlm_export.quantization.quality import Trial
from xlm_export.quantization.quantizer import NO_LIMITS, Limits, Options, Quantizer
from xlm_export.quantization.recipes import RECIPES
from xlm_export.quantization.texts import calibration_texts
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.machine import cpu_features
from xlm_runtime.tasks import find_task


@dataclass(frozen=True)
class Quantized:
    """What was made: the bundle as it is now, its new graph, and the report that `bundle.json` keeps of it."""

    bundle: Bundle
    graph: Graph
    report: dict[str, Any]


def quantize(
    bundle: str | Path,
    recipe: str,
    *,
    calibration: str | Path | None = None,
    data: str | Path | None = None,
    limits: Limits = NO_LIMITS,
    percentile: float | None = None,
    embeddings: bool = True,
    keep: Sequence[str] = (),
    per_layer: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Quantized:
    """Add a quantised graph to a bundle. `bundle.json` names it only once it is there and within the limits.

    Parts of the model are quantised together: each layer's attention, each layer's FFN, the head and the embeddings.
    Where all together are over the limit, each is measured alone, and the most sensitive ones stay in fp32, one after
    the other and at most half of them, until the limit is kept.

    Args:
        recipe: a name out of `RECIPES`.
        calibration: texts to calibrate and compare on, see `read_texts`; by default the sentences of verification.
        data: labelled data for the task's metric, see `metric`.
        limits: what fails the run.
        percentile: how many percent of an activation's values its range holds, such as 99.99; the others are clipped.
            By default all of them (recipes with ranges from calibration: int8-static).
        embeddings: quantise the embeddings as well, where the recipe can.
        keep: parts that stay in fp32 whatever they cost, such as "head" or "layer 3 ffn" (not bf16).
        per_layer: measure each part alone even where all together are within the limit (not bf16).
        force: replace the graph by this recipe, in this layout, that is already there.
        progress: see `Progress`.

    Raises:
        InputError: an unknown recipe or part, a file that cannot be used, or the graph is already there.
        BundleError: files that are missing or damaged.
        VerificationError: over a limit; the bundle stays as it was.
    """
    if recipe not in RECIPES:
        raise InputError(f"Unknown recipe '{recipe}'; expected one of {', '.join(RECIPES)}.")
    chosen = RECIPES[recipe]
    options = Options(limits, percentile, embeddings, tuple(keep), per_layer)
    options.check(recipe, chosen)
    steps = Steps(progress, 4 + options.calibration_steps(chosen) + (data is not None))
    steps("check the bundle")
    written = Bundle.load(bundle)
    written.check_files()
    source = _source(written)
    entry = replace(source, precision=chosen.precision, target=chosen.target, weights_in=(), recipe=recipe)
    entry = replace(entry, file=entry.file_name)
    if replaced_by(written, entry, "quantized") and not force:
        raise InputError(
            f"The bundle '{bundle}' has a graph by {recipe} already; use --force (force=True) to replace it."
        )
    if limits.min_metric is not None and data is None:
        raise InputError("min_metric was given without labelled data; give --data.")
    task = find_task(written.architecture, written.task)
    if limits.min_agreement is not None and not (task.scores or task.beams):
        raise InputError(
            f"min_agreement was given, but the task {task.name} gives vectors and chooses nothing; leave out "
            "--min-agreement."
        )
    texts = calibration_texts(written, calibration)
    labelled = None if data is None else read_data(written.task, Path(data))
    cpu = cpu_features()
    if (note := chosen.advice(cpu)) is not None:
        warnings.warn(note, UserWarning, stacklevel=2)
    trial = Trial.of(written, source, texts, "own" if calibration is None else str(calibration))
    with draft_of(written) as draft:
        quality, report = Quantizer(written, source, draft, chosen, options, trial, cpu, steps).make()
        report = {"recipe": recipe, **report}
        problems = limits.check(quality, chosen)
        if data is not None and labelled is not None:
            steps("measure the task")
            with draft_bundle(written, draft, source, entry) as both:
                report["metric"] = _metrics(both, chosen.provider, Path(data).name, labelled)
            problems += limits.check_metric(report["metric"])
        if problems:
            raise VerificationError(f"The graph made by {recipe} was not added: {'; '.join(problems)}.")
        made = add_graph(written, draft, source, entry, "quantized", report)
    return Quantized(made, entry, report)


def _source(bundle: Bundle) -> Graph:
    for graph in bundle.graphs:
        if graph.precision == "fp32" and graph.is_portable and graph.recipe is None:
            return graph
    raise InputError(f"The bundle '{bundle.folder}' has no portable graph in fp32; export the checkpoint in fp32.")


def _metrics(both: Bundle, provider: str, name: str, data: Data) -> dict[str, Any]:
    """The task's metric of the fp32 graph and of the new one."""
    values = [
        measure(both.task, both.folder, graph.recipe or graph.precision, where, data)
        for graph, where in zip(both.graphs, ("cpu", provider), strict=True)
    ]
    return {"name": METRICS[both.task][0], "data": name, "fp32": values[0], "quantized": values[1]}
