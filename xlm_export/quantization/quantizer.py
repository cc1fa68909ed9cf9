"""Makes graphs by a recipe, and measures each against fp32: of all parts, of each alone, without the sensitive ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm_export.onnx_graph.file import copy_weights, open_model, save
from xlm_export.progress import Steps
from xlm_export.quantization.calibration import extremes, percentile_ranges
from xlm_export.quantization.int8 import Ranges
from xlm_export.quantization.products import find_embeddings, find_products
from xlm_export.quantization.quality import Quality, RecordingSession, Trial, median_milliseconds
from xlm_export.quantization.recipes import Job, Recipe
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.machine import CpuFeatures, available_cpus
from xlm_runtime.model.opening import padded_session
from xlm_runtime.sessions import Session, open_session


@dataclass(frozen=True)
class Limits:
    """What fails a run; None: the recipe's limit for the divergence, no limit for the others.

    `max_divergence` in nats a choice, `min_agreement` the share of same choices, `min_metric` in the metric's own unit.
    """

    max_divergence: float | None = None
    min_agreement: float | None = None
    min_metric: float | None = None

    def check(self, quality: Quality, recipe: Recipe) -> list[str]:
        """What is over a limit, as ends of sentences."""
        most = recipe.max_divergence if self.max_divergence is None else self.max_divergence
        agreed, found = quality.same_choice, []
        if not quality.finite:
            found.append("some of its outputs are NaN or infinite")
        if not quality.divergence <= most:  # NaN is over any limit
            found.append(f"its divergence from fp32 is {quality.divergence:.2g}, the limit {most:g}")
        if self.min_agreement is not None and agreed is not None and agreed < self.min_agreement:
            found.append(f"it makes the same choice in {agreed} of the cases, the limit is {self.min_agreement:g}")
        return found

    def check_metric(self, metric: dict[str, Any]) -> list[str]:
        """The same of the task's metric, as `bundle.json` keeps it."""
        if self.min_metric is None or metric["quantized"] >= self.min_metric:
            return []
        return [f"its {metric['name']} is {metric['quantized']:.4g}, the limit {self.min_metric:g}"]


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Options:
    """How a recipe is used; see `quantize`, whose arguments these are."""

    limits: Limits = NO_LIMITS
    percentile: float | None = None
    embeddings: bool = True
    keep: tuple[str, ...] = ()
    per_layer: bool = False

    def check(self, name: str, recipe: Recipe) -> None:
        """Whether a recipe has them.

        Raises:
            InputError: it has not.
        """
        if self.percentile is not None:
            if not recipe.ranges:
                raise InputError(f"The recipe {name} has no ranges from calibration; leave out --percentile.")
            if not 50 < self.percentile <= 100:
                raise InputError(
                    f"percentile is {self.percentile:g}; expected more than 50 and at most 100, such as 99.99."
                )
        if not recipe.parts and (self.keep or self.per_layer):
            raise InputError(f"The recipe {name} quantises every part alike; leave out --keep and --per-layer.")

    def calibration_steps(self, recipe: Recipe) -> int:
        """Passes over the calibration texts, beside that of the fp32 graph."""
        if not recipe.ranges:
            return 0
        return 1 if self.percentile is None else 2


class Quantizer:
    """Makes graphs of one recipe from a bundle's fp32 graph, each in the place of the one before.

    Args:
        source: the fp32 graph.
        draft: the file to write, in the bundle's folder.
        cpu: the machine at hand.
    """

    def __init__(
        self,
        bundle: Bundle,
        source: Graph,
        draft: Path,
        recipe: Recipe,
        options: Options,
        trial: Trial,
        cpu: CpuFeatures,
        steps: Steps,
    ) -> None:
        self._bundle, self._source, self._draft = bundle, source, draft
        self._recipe, self._options, self._trial, self._cpu, self._steps = recipe, options, trial, cpu, steps
        self.parts = self._find_parts()
        steps("run the fp32 graph")
        recording = RecordingSession(open_session(self._file))
        self._fp32 = padded_session(recording, bundle, source)
        self._answers = list(trial.answers(self._fp32))
        recording.stop()
        self._ranges = self._calibrate(recording.feeds) if recipe.ranges else None

    def make(self) -> tuple[Quality, dict[str, Any]]:
        """Write the graph.

        Returns:
            How far it is from fp32, whether or not that is within the limits, and its report.

        Raises:
            InputError: a part to keep that there is not.
        """
        steps, limits, per_layer = self._steps, self._options.limits, self._options.per_layer
        for part in self._options.keep:
            if part not in self.parts:
                raise InputError(f"Unknown part '{part}' to keep; this graph has {', '.join(self.parts)}.")
        parts = [part for part in self.parts if part not in self._options.keep]
        search = len(parts) + 1  # each alone, and the last graph
        steps.expect(search if per_layer else 0)
        steps("quantise")
        quality = self._try(parts)
        alone: dict[str, float] = {}
        over = self._recipe.parts and bool(limits.check(quality, self._recipe))
        if per_layer or over:
            most = len(parts) // 2 if over else 0  # may stay in fp32
            steps.expect(most + (0 if per_layer else search))
            for part in parts:
                steps(f"measure {part} alone")
                alone[part] = self._try([part]).divergence
            spared = sorted(parts, key=lambda part: -alone[part])[:most]
            while spared and limits.check(quality, self._recipe):
                part = spared.pop(0)
                parts.remove(part)
                steps(f"quantise without {part}")
                quality = self._try(parts)
            steps.expect(-len(spared))
            steps("write the graph")
            quality = self._try(parts)
        return quality, self._report(parts, quality, alone)

    @property
    def _file(self) -> Path:
        return self._bundle.folder / self._source.file

    def _find_parts(self) -> list[str]:
        model = open_model(self._file)
        parts = list(dict.fromkeys(product.group for product in find_products(model)))
        embeddings = self._recipe.embeddings and self._options.embeddings
        if embeddings and find_embeddings(model, self._bundle.config.vocab_size):
            parts.append("embeddings")
        return parts

    def _calibrate(self, feeds: Sequence[dict[str, Any]]) -> Ranges:
        scratch, percentile = self._draft.with_name(f"{self._draft.name}.calibration.onnx"), self._options.percentile
        self._steps("calibrate")
        ranges = extremes(self._file, scratch, feeds)
        if percentile is None:
            return ranges
        self._steps("count values")
        return percentile_ranges(self._file, scratch, feeds, ranges, percentile)

    def _try(self, parts: Sequence[str]) -> Quality:
        """Write the graph with these parts quantised, and compare it."""
        job = Job(tuple(parts), self._bundle.config.vocab_size, self._cpu, self._ranges)
        model = self._recipe.apply(open_model(self._file), job)
        copy_weights(model)  # stands alone: it can be copied without the fp32 graph
        for node in model.graph:
            node.metadata_props.clear()
        model.metadata_props["precision"] = self._recipe.precision
        save(model, self._draft)
        return self._trial.quality(self._answers, self._open())

    def _open(self) -> Session:
        return padded_session(open_session(self._draft, self._recipe.provider), self._bundle, self._source)

    def _report(self, parts: Sequence[str], quality: Quality, alone: dict[str, float]) -> dict[str, Any]:
        self._steps("measure the time")
        fp32, new = median_milliseconds([self._fp32, self._open()], self._trial)
        percentile = self._options.percentile
        return {
            "against": self._source.file,
            "texts": self._trial.source,
            **({} if percentile is None else {"percentile": percentile}),
            "provider": self._recipe.provider,
            "in_fp32": [part for part in self.parts if part not in parts],
            "finite": quality.finite,
            **quality.to_dict(),
            "alone": alone,
            "milliseconds": {"fp32": fp32, self._recipe.precision: new, "threads": available_cpus()},
        }
