"""How far a graph's outputs are from others, and what a precision may cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from xlm_runtime.tasks import TensorSpec


@dataclass(frozen=True)
class Tolerance:
    """What a precision may cost. `relative_error` is to the output's largest magnitude in all cases."""

    relative_error: float
    argmax_agreement: float


# The visible table. Half precision keeps 11 (fp16) or 8 (bf16) bits; twelve layers add their roundings up.
TOLERANCES = {
    "fp32": Tolerance(relative_error=1e-4, argmax_agreement=0.999),
    "fp16": Tolerance(relative_error=2e-2, argmax_agreement=0.98),
    "bf16": Tolerance(relative_error=1e-1, argmax_agreement=0.95),
}

# The same graph in few bits, computed in another order: an activation that is rounded the other way is one step of 255
# away, and such steps add up over the layers (measured: 1e-2 in four), while a wrong graph is as far off as its values
# are large.
SAME_IN_FEW_BITS = Tolerance(relative_error=1e-1, argmax_agreement=0.95)


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

    @classmethod
    def of(cls, precision: str, provider: str, outputs: Sequence[TensorSpec]) -> VerificationReport:
        """A report on a graph's outputs, without a case yet."""
        return cls(precision, provider, [], {spec.name: OutputError() for spec in outputs})

    @property
    def tolerance(self) -> Tolerance:
        return TOLERANCES.get(self.precision, SAME_IN_FEW_BITS)

    @property
    def failures(self) -> list[str]:
        """One sentence for each value over its limit."""
        found = []
        for name, error in self.outputs.items():
            if error.not_finite:
                found.append(f"{name}: {error.not_finite} values are NaN or infinite")
            if not error.relative <= self.tolerance.relative_error:  # NaN is over any limit
                found.append(f"{name}: relative error {error.relative:.2e} is over {self.tolerance.relative_error:.0e}")
            agreement = error.argmax_agreement
            if agreement is not None and agreement < self.tolerance.argmax_agreement:
                found.append(f"{name}: argmax agreement {agreement:.4f} is under {self.tolerance.argmax_agreement}")
        return found

    @property
    def status(self) -> str:
        return "failed" if self.failures else "passed"

    def to_dict(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "precision": self.precision,
            "provider": self.provider,
            "limit": asdict(self.tolerance),
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
            f"{self.tolerance.relative_error:.0e}, argmax agreement {self.tolerance.argmax_agreement}"
        )
        return "\n".join([*lines, *self.failures])
