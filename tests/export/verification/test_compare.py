"""How outputs are compared follows from their roles in the table of tasks, not from their names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from xlm_export.verification.batches import VerificationCase
from xlm_export.verification.compare import argmax_agrees, compare
from xlm_export.verification.report import VerificationReport
from xlm_runtime.tasks import Beam, Task, TensorSpec, find_task

MASK = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]])


def report_on(
    task: Task, got: dict[str, np.ndarray], want: dict[str, np.ndarray], mask: np.ndarray = MASK
) -> VerificationReport:
    report = VerificationReport.of("fp32", "cpu", task.outputs)
    compare(report, task, task.outputs, VerificationCase("a case", {"attention_mask": mask}), got, want)
    return report


def test_padding_is_not_compared_but_has_to_be_finite() -> None:
    task = find_task("XLMForTokenClassification")
    want = np.random.default_rng(0).normal(size=(3, 3, 5)).astype(np.float32)
    got = want + np.where(MASK[..., None] == 0, 100, 0).astype(np.float32)
    report = report_on(task, {"logits": got}, {"logits": want})
    assert report.failures == []
    assert report.outputs["logits"].compared == 5 * 5
    assert report.outputs["logits"].argmax_agreement == 1.0
    got[2, 0, 0] = np.nan
    assert report_on(task, {"logits": got}, {"logits": want}).failures == ["logits: 1 values are NaN or infinite"]


def test_choices_of_scores() -> None:
    task = find_task("XLMForSequenceClassification")
    want = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    report = report_on(task, {"logits": want[:, ::-1]}, {"logits": want})
    assert report.outputs["logits"].argmax_agreement == 0.0
    without_roles = replace(task, scores=())
    assert report_on(without_roles, {"logits": want}, {"logits": want}).outputs["logits"].argmax_agreement is None


def test_a_beam_under_other_names() -> None:
    """Two starts, two ends each; of a start that both list, its ends are compared, of another not."""
    task = Task(
        "question-answering",
        "SomeHead",
        ("batch",),
        outputs=(
            TensorSpec("a", "int64", ("batch", "start_n_top")),
            TensorSpec("b", "float32", ("batch", "start_n_top")),
            TensorSpec("c", "int64", ("batch", "end_n_top * start_n_top")),
            TensorSpec("d", "float32", ("batch", "end_n_top * start_n_top")),
        ),
        beams=(Beam("a", "b"), Beam("c", "d", starts="a")),
    )
    want = {
        "a": np.array([[0, 1]]),
        "b": np.array([[0.8, 0.2]], np.float32),
        "c": np.array([[1, 2, 2, 1]]),
        "d": np.array([[0.9, 0.6, 0.1, 0.4]], np.float32),
    }
    got = want | {"a": np.array([[0, 2]]), "d": np.array([[0.9, 9.0, 0.1, 9.0]], np.float32)}
    report = report_on(task, got, want, np.array([[1, 1, 1]]))
    assert report.failures == []
    assert report.outputs["d"].compared == 2
    assert report.outputs["a"].argmax_agreement == 1.0
    got["a"] = np.array([[1, 0]])
    assert report_on(task, got, want, np.array([[1, 1, 1]])).outputs["a"].argmax_agreement == 0.0


def test_equal_scores_are_the_same_choice() -> None:
    want = np.array([[1.0, 1.0 - 1e-6, 0.0]])
    got = np.array([[0.0, 1.0, 0.5]])
    assert argmax_agrees(got, want, 1e-5).tolist() == [True]
    assert argmax_agrees(got, want, 1e-7).tolist() == [False]
