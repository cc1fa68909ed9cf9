"""One case's outputs beside those that they should be, into a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xlm_export.verification.batches import VerificationCase
from xlm_export.verification.report import VerificationReport
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import Task, TensorSpec


def compare(
    report: VerificationReport,
    task: Task,
    outputs: Sequence[TensorSpec],
    case: VerificationCase,
    got: Mapping[str, Array],
    want: Mapping[str, Array],
) -> None:
    """Add one case to the report. Padding rows need only be finite, and padding tokens are not compared.

    Args:
        outputs: the graph's, in the padded layout.
    """
    mask = case.inputs["attention_mask"] != 0  # (batch, [num_choices,] sequence)
    real_rows = mask.any(axis=-1).reshape(mask.shape[0], -1).all(axis=-1)
    tolerance = report.tolerance.relative_error
    listed = {beam.index: beam for beam in task.beams}
    starts = {beam.probability: beam.starts for beam in task.beams if beam.starts is not None}
    for spec in outputs:
        error = report.outputs[spec.name]
        ours, theirs = got[spec.name], want[spec.name]
        if theirs.dtype.kind == "f":
            ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
            error.not_finite += int((~np.isfinite(ours)).sum())
        if spec.axes[: mask.ndim] == (*task.rows, "sequence"):
            ours, theirs = ours[mask], theirs[mask]
        elif spec.axes[0] == "batch":
            ours, theirs = ours[real_rows], theirs[real_rows]
        if spec.name in listed:
            probability = want[listed[spec.name].probability][real_rows]
            error.add_choice(_first_agrees(ours, theirs, probability, tolerance))
        elif spec.name in starts:
            same = (got[starts[spec.name]] == want[starts[spec.name]])[real_rows]  # (rows, start_n_top)
            columns = np.tile(same, (1, theirs.shape[1] // same.shape[1]))  # ends of one start share a column
            error.add(ours[columns], theirs[columns])
        else:
            error.add(ours, theirs)
            if spec.name in task.scores and theirs.ndim > 1 and theirs.shape[-1] > 1:
                error.add_choice(argmax_agrees(ours, theirs, tolerance))


def argmax_agrees(got: Array, want: Array, tolerance: float) -> Array:
    """(rows,) bool: does `got`'s best entry score within the tolerance of the best in `want`?"""
    chosen = np.take_along_axis(want, got.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    best = want.max(axis=-1)
    agrees: Array = best - chosen <= tolerance * np.abs(want).max(initial=0.0)
    return agrees.reshape(-1)


def _first_agrees(got: Array, want: Array, probability: Array, tolerance: float) -> Array:
    """(rows,) bool: is the beam's first entry the same, or is the second one as probable within the tolerance?"""
    agrees: Array = got[:, 0] == want[:, 0]
    if probability.shape[1] > 1:
        agrees = agrees | (probability[:, 0] - probability[:, 1] <= tolerance * probability[:, 0])
    return agrees
