"""Torch against the graph: the same inputs through both, and how far the outputs are apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from xlm_export.tracing.graph import ExportGraph
from xlm_export.verification.batches import VerificationCase
from xlm_runtime.sessions import Session
from xlm_runtime.tasks import Task, TensorSpec


@dataclass(frozen=True)
class Limit:
    """What a precision may cost. `relative_error` is to the output's largest magnitude in all cases."""

    relative_error: float
    argmax_agreement: float


# The visible table. Half precision keeps 11 (fp16) or 8 (bf16) bits; twelve layers add their roundings up.
LIMITS = {
    "fp32": Limit(relative_error=1e-4, argmax_agreement=0.999),
    "fp16": Limit(relative_error=2e-2, argmax_agreement=0.98),
    "bf16": Limit(relative_error=1e-1, argmax_agreement=0.95),
}

PROBABILITY_OF = {"start_top_index": "start_top_log_probs", "end_top_index": "end_top_log_probs"}


@dataclass
class OutputError:
    """How far one output is from torch's, over all cases.

    `argmax_agreement` is the share of rows in which both choose the same entry of the last axis, or entries that torch
    scores alike within the limit; None for outputs without such a choice.
    """

    max_absolute: float = 0.0
    mean_absolute: float = 0.0
    largest: float = 0.0
    argmax_agreement: float | None = None
    not_finite: int = 0
    compared: int = 0
    _chosen: list[float] = field(default_factory=list, repr=False)

    def add(self, got: np.ndarray, want: np.ndarray) -> None:
        """Take in float values of one case, both of one shape."""
        if not want.size:
            return
        difference = np.abs(got - want)
        total = self.mean_absolute * self.compared + float(difference.sum(dtype=np.float64))
        self.compared += want.size
        self.mean_absolute = total / self.compared
        self.max_absolute = float(np.maximum(self.max_absolute, difference.max()))  # NaN stays
        self.largest = max(self.largest, float(np.abs(want).max()))

    @property
    def relative(self) -> float:
        """`max_absolute` as a share of torch's largest magnitude."""
        return self.max_absolute / max(self.largest, 1e-6)

    def add_choice(self, agrees: np.ndarray) -> None:
        """Take in (rows,) bool: whether both made the same choice."""
        self._chosen += [float(value) for value in agrees]
        if self._chosen:
            self.argmax_agreement = sum(self._chosen) / len(self._chosen)

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        del values["_chosen"]
        return values | {"relative": self.relative}


@dataclass
class VerificationReport:
    """The errors of every output and what exceeds the limit."""

    precision: str
    provider: str
    cases: list[str]
    outputs: dict[str, OutputError]
    own_limit: Limit | None = None
    """Another limit than the precision's."""

    @property
    def limit(self) -> Limit:
        return self.own_limit or LIMITS[self.precision]

    @property
    def failures(self) -> list[str]:
        """One sentence for each value over its limit."""
        found = []
        for name, error in self.outputs.items():
            if error.not_finite:
                found.append(f"{name}: {error.not_finite} values are NaN or infinite")
            if not error.relative <= self.limit.relative_error:  # NaN is over any limit
                found.append(f"{name}: relative error {error.relative:.2e} is over {self.limit.relative_error:.0e}")
            agreement = error.argmax_agreement
            if agreement is not None and agreement < self.limit.argmax_agreement:
                found.append(f"{name}: argmax agreement {agreement:.4f} is under {self.limit.argmax_agreement}")
        return found

    @property
    def status(self) -> str:
        return "failed" if self.failures else "passed"

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "precision": self.precision,
            "provider": self.provider,
            "limit": asdict(self.limit),
            "cases": self.cases,
            "outputs": {name: error.to_dict() for name, error in self.outputs.items()},
            "failures": self.failures,
        }

    def table(self) -> str:
        """The report for a terminal."""
        lines = [f"{'output':<24}{'max abs':>10}{'mean abs':>10}{'relative':>10}{'argmax':>8}{'NaN/inf':>9}"]
        for name, error in self.outputs.items():
            agreement = "" if error.argmax_agreement is None else f"{error.argmax_agreement:.4f}"
            lines.append(
                f"{name:<24}{error.max_absolute:>10.1e}{error.mean_absolute:>10.1e}{error.relative:>10.1e}"
                f"{agreement:>8}{error.not_finite:>9}"
            )
        lines.append(
            f"{self.status}: {self.precision} on {self.provider}, {len(self.cases)} batches; limits: relative error "
            f"{self.limit.relative_error:.0e}, argmax agreement {self.limit.argmax_agreement}"
        )
        return "\n".join([*lines, *self.failures])


class Outputs(Protocol):
    """What `compare` has to know of a graph."""

    @property
    def task(self) -> Task: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...


def verify_graph(
    reference: ExportGraph,
    session: Session,
    cases: list[VerificationCase],
    precision: str,
    provider: str,
    on_case: Callable[[str], None] | None = None,
) -> VerificationReport:
    """Run every case through torch in float32 and through the session.

    Args:
        reference: the float32 model, with the graph's inputs and outputs.
        on_case: called with each case's name before it runs.
    """
    report = VerificationReport(precision, provider, [], {spec.name: OutputError() for spec in reference.outputs})
    for case in cases:
        if on_case:
            on_case(case.name)
        with torch.inference_mode():
            tensors = reference({name: torch.from_numpy(value) for name, value in case.inputs.items()})
        want = {spec.name: tensor.numpy() for spec, tensor in zip(reference.outputs, tensors, strict=True)}
        got = session.run(case.inputs)
        compare(report, reference, case, got, want)
        report.cases.append(case.name)
    return report


def compare(
    report: VerificationReport,
    graph: Outputs,
    case: VerificationCase,
    got: dict[str, np.ndarray],
    want: dict[str, np.ndarray],
) -> None:
    """Add one case to the report. Padding rows need only be finite, and padding tokens are not compared."""
    mask = case.inputs["attention_mask"] != 0  # (batch, [num_choices,] sequence)
    real_rows = mask.any(axis=-1).reshape(mask.shape[0], -1).all(axis=-1)
    tolerance = report.limit.relative_error
    for spec in graph.outputs:
        error = report.outputs[spec.name]
        ours, theirs = got[spec.name], want[spec.name]
        if theirs.dtype.kind == "f":
            ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
            error.not_finite += int((~np.isfinite(ours)).sum())
        if spec.axes[: mask.ndim] == (*graph.task.rows, "sequence"):
            ours, theirs = ours[mask], theirs[mask]
        elif spec.axes[0] == "batch":
            ours, theirs = ours[real_rows], theirs[real_rows]
        if spec.name in PROBABILITY_OF:
            probability = want[PROBABILITY_OF[spec.name]][real_rows]
            error.add_choice(_first_agrees(ours, theirs, probability, tolerance))
        elif spec.name == "end_top_log_probs":
            same = (got["start_top_index"] == want["start_top_index"])[real_rows]  # (rows, start_n_top)
            columns = np.tile(same, (1, theirs.shape[1] // same.shape[1]))  # ends of one start share a column
            error.add(ours[columns], theirs[columns])
        else:
            error.add(ours, theirs)
            if spec.name in ("logits", "start_logits", "end_logits") and theirs.ndim > 1 and theirs.shape[-1] > 1:
                error.add_choice(argmax_agrees(ours, theirs, tolerance))


def argmax_agrees(got: np.ndarray, want: np.ndarray, tolerance: float) -> np.ndarray:
    """(rows,) bool: does `got`'s best entry score within the tolerance of the best in `want`?"""
    chosen = np.take_along_axis(want, got.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best = want.max(axis=-1)
    agrees: np.ndarray = best - chosen <= tolerance * np.abs(want).max(initial=0.0)
    return agrees.reshape(-1)


def _first_agrees(got: np.ndarray, want: np.ndarray, probability: np.ndarray, tolerance: float) -> np.ndarray:
    """(rows,) bool: is the beam's first entry the same, or is the second one as probable within the tolerance?"""
    agrees: np.ndarray = got[:, 0] == want[:, 0]
    if probability.shape[1] > 1:
        agrees = agrees | (probability[:, 0] - probability[:, 1] <= tolerance * probability[:, 0])
    return agrees
