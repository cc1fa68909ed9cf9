"""A bundle's fp32 graph in fewer bits, as a further graph of the bundle, measured against fp32 before it is added."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm_export.batches import own_texts, read_texts
from xlm_export.bundle_writer import add_graph, draft_bundle, draft_of, replaced_by
from xlm_export.errors import VerificationError
from xlm_export.onnx_graph.file import copy_weights, open_model, save
from xlm_export.quantization.bf16 import weights_to_bf16
from xlm_export.quantization.calibration import extremes, percentile_ranges
from xlm_export.quantization.cpu_features import advice, cpu_features
from xlm_export.quantization.int4 import int4_weights
from xlm_export.quantization.int8 import Ranges, quantize_int8
from xlm_export.quantization.metric import METRICS, check_data, measure
from xlm_export.quantization.products import find_embeddings, find_products
from xlm_export.quantization.quality import Quality, Recorder, Trial, median_milliseconds
from xlm_export.quantization.recipes import RECIPES, Recipe
from xlm_export.verification.against_graph import graph_session
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.sessions import Session, available_cpus, open_session

Progress = Callable[[str, int], None]
"""Takes the name of a step and how many are to follow it, as far as that is known."""


@dataclass(frozen=True)
class Limits:
    """What fails a run; None: the recipe's limit for the divergence, no limit for the others.

    `max_divergence` in nats a choice, `min_agreement` the share of same choices, `min_metric` in the metric's own unit.
    """

    max_divergence: float | None = None
    min_agreement: float | None = None
    min_metric: float | None = None


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
    limits: Limits = Limits(),
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
            By default all of them (int8-static).
        embeddings: int8 embeddings as well (int8 recipes).
        keep: parts that stay in fp32 whatever they cost, such as "head" or "layer 3 ffn" (not bf16).
        per_layer: measure each part alone even where all together are within the limit (not bf16).
        force: replace the graph by this recipe, in this layout, that is already there.
        progress: called before each step with its name, and the number of steps to follow as far as it is known.

    Raises:
        InputError: an unknown recipe or part, a file that cannot be used, or the graph is already there.
        BundleError: files that are missing or damaged.
        VerificationError: over a limit; the bundle stays as it was.
    """
    if recipe not in RECIPES:
        raise InputError(f"Unknown recipe '{recipe}'; expected one of {', '.join(RECIPES)}.")
    chosen = RECIPES[recipe]
    if percentile is not None:
        if recipe != "int8-static":
            raise InputError(f"The recipe {recipe} has no ranges from calibration; leave out --percentile.")
        if not 50 < percentile <= 100:
            raise InputError(f"percentile is {percentile:g}; expected more than 50 and at most 100, such as 99.99.")
    if recipe == "bf16" and (keep or per_layer):
        raise InputError(f"The recipe {recipe} quantises every part alike; leave out --keep and --per-layer.")
    calibrations = 0 if recipe != "int8-static" else 1 if percentile is None else 2
    step = _Steps(progress, 4 + calibrations + (data is not None))
    step("check the bundle")
    written = Bundle.load(bundle)
    written.check_files()
    source = _source(written)
    entry = replace(source, precision=chosen.precision, target=chosen.engine, weights_in=(), recipe=recipe)
    entry = replace(entry, file=entry.file_name)
    if replaced_by(written, entry, "quantized") and not force:
        raise InputError(
            f"The bundle '{bundle}' has a graph by {recipe} already; use --force (force=True) to replace it."
        )
    if limits.min_metric is not None and data is None:
        raise InputError("min_metric was given without labelled data; give --data.")
    texts = own_texts() if calibration is None else read_texts(calibration)
    rows = check_data(written.task, Path(data)) if data is not None else []
    if (note := advice(recipe, cpu_features())) is not None:
        warnings.warn(note, UserWarning, stacklevel=2)
    trial = Trial.of(written, source, texts, "own" if calibration is None else str(calibration))
    with draft_of(written) as draft:
        maker = _Maker(written, source, recipe, chosen, trial, draft, embeddings, percentile, step)
        report = maker.make(tuple(keep), per_layer, limits)
        if data is not None:
            step("measure the task")
            with draft_bundle(written, draft, source, entry) as both:
                report["metric"] = _metrics(both, chosen.provider, Path(data), rows)
        problems = _problems(report, limits, chosen)
        if problems:
            raise VerificationError(f"The graph made by {recipe} was not added: {'; '.join(problems)}.")
        made = add_graph(written, draft, source, entry, "quantized", report)
    return Quantized(made, entry, report)


class _Steps:
    """Names each step, and counts those to follow."""

    def __init__(self, progress: Progress | None, number: int) -> None:
        self.progress, self.left = progress, number

    def __call__(self, name: str) -> None:
        self.left -= 1
        if self.progress is not None:
            self.progress(name, self.left)


class _Maker:
    """Makes graphs of one recipe and measures them."""

    def __init__(
        self,
        bundle: Bundle,
        source: Graph,
        recipe: str,
        chosen: Recipe,
        trial: Trial,
        path: Path,
        embeddings: bool,
        percentile: float | None,
        step: _Steps,
    ) -> None:
        self.bundle, self.source, self.recipe, self.chosen = bundle, source, recipe, chosen
        self.trial, self.path, self.step = trial, path, step
        self.reduce_range = cpu_features().saturates
        model = open_model(bundle.folder / source.file)
        self.groups = list(dict.fromkeys(product.group for product in find_products(model)))
        if embeddings and recipe.startswith("int8") and find_embeddings(model, bundle.config.vocab_size):
            self.groups.append("embeddings")
        step("run the fp32 graph")
        recorder = Recorder(open_session(bundle.folder / source.file))
        self.fp32 = graph_session(recorder, bundle, source)
        self.answers = list(trial.answers(self.fp32))
        recorder.recording = False
        self.percentile = percentile
        self.ranges: Ranges | None = None
        if recipe == "int8-static":
            file, scratch = bundle.folder / source.file, path.with_name(f"{path.name}.calibration.onnx")
            step("calibrate")
            self.ranges = extremes(file, scratch, recorder.feeds)
            if percentile is not None:
                step("count values")
                self.ranges = percentile_ranges(file, scratch, recorder.feeds, self.ranges, percentile)

    def make(self, keep: tuple[str, ...], per_layer: bool, limits: Limits) -> dict[str, Any]:
        """Write the graph; returns its report, whether or not it is within the limits."""
        for part in keep:
            if part not in self.groups:
                raise InputError(f"Unknown part '{part}' to keep; this graph has {', '.join(self.groups)}.")
        parts = [part for part in self.groups if part not in keep]
        search = len(parts) + 1  # steps
        self.step.left += search if per_layer else 0
        self.step("quantise")
        quality = self._try(parts)
        sensitivity: dict[str, float] = {}
        over = self.recipe != "bf16" and self._over(quality, limits)
        if per_layer or over:
            most = len(parts) // 2 if over else 0  # may stay in fp32
            self.step.left += most + (0 if per_layer else search)
            for part in parts:
                self.step(f"measure {part} alone")
                sensitivity[part] = self._try([part]).divergence
            spared = sorted(parts, key=lambda part: -sensitivity[part])[:most]
            while spared and self._over(quality, limits):
                part = spared.pop(0)
                parts.remove(part)
                self.step(f"quantise without {part}")
                quality = self._try(parts)
            self.step.left -= len(spared)
            self.step("write the graph")
            quality = self._try(parts)
        self.step("measure the time")
        session = self._open()
        fp32, new = median_milliseconds([self.fp32, session], self.trial)
        return {
            "recipe": self.recipe,
            "against": self.source.file,
            "texts": self.trial.source,
            **({} if self.percentile is None else {"percentile": self.percentile}),
            "provider": self.chosen.provider,
            "in_fp32": [part for part in self.groups if part not in parts],
            "finite": quality.finite,
            **quality.to_dict(),
            "alone": sensitivity,
            "milliseconds": {"fp32": fp32, self.chosen.precision: new, "threads": available_cpus()},
        }

    def _over(self, quality: Quality, limits: Limits) -> bool:
        most = self.chosen.max_divergence if limits.max_divergence is None else limits.max_divergence
        agreed = quality.same_choice
        return (
            not quality.finite
            or not quality.divergence <= most
            or (limits.min_agreement is not None and agreed is not None and agreed < limits.min_agreement)
        )

    def _try(self, parts: Sequence[str]) -> Quality:
        """Write the graph with these parts quantised, and compare it."""
        model = open_model(self.bundle.folder / self.source.file)
        if self.recipe == "bf16":
            weights_to_bf16(model)
        elif self.recipe == "int4-weights":
            model = int4_weights(model, parts)
        else:
            quantize_int8(
                model, parts, self.ranges, vocab_size=self.bundle.config.vocab_size, reduce_range=self.reduce_range
            )
        copy_weights(model)  # stands alone: it can be copied without the fp32 graph
        for node in model.graph:
            node.metadata_props.clear()
        model.metadata_props["precision"] = self.chosen.precision
        save(model, self.path)
        return self.trial.quality(self.answers, self._open())

    def _open(self) -> Session:
        return graph_session(open_session(self.path, self.chosen.provider), self.bundle, self.source)


def _source(bundle: Bundle) -> Graph:
    for graph in bundle.graphs:
        if graph.precision == "fp32" and graph.is_portable and graph.recipe is None:
            return graph
    raise InputError(f"The bundle '{bundle.folder}' has no portable graph in fp32; export the checkpoint in fp32.")


def _problems(report: dict[str, Any], limits: Limits, recipe: Recipe) -> list[str]:
    most = recipe.max_divergence if limits.max_divergence is None else limits.max_divergence
    found = []
    if not report["finite"]:
        found.append("some of its outputs are NaN or infinite")
    if not report["divergence"] <= most:
        found.append(f"its divergence from fp32 is {report['divergence']:.2g}, the limit {most:g}")
    agreed = report["same_choice"]
    if limits.min_agreement is not None and (agreed is None or agreed < limits.min_agreement):
        found.append(f"it makes the same choice in {agreed} of the cases, the limit is {limits.min_agreement:g}")
    if limits.min_metric is not None and not report["metric"]["quantized"] >= limits.min_metric:
        found.append(f"its {report['metric']['name']} is {report['metric']['quantized']:.4g}, the limit "
                     f"{limits.min_metric:g}")  # fmt: skip
    return found


def _metrics(draft: Bundle, provider: str, data: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The task's metric of the fp32 graph and of the new one."""
    values = [
        measure(draft.task, draft.folder, graph.recipe or graph.precision, where, data, rows)
        for graph, where in zip(draft.graphs, ("cpu", provider), strict=True)
    ]
    return {"name": METRICS[draft.task][0], "data": data.name, "fp32": values[0], "quantized": values[1]}
