"""The table of tasks: what it says of outputs is about outputs that there are."""

from __future__ import annotations

import pytest

from xlm_runtime.tasks import TASKS, Task


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}, {task.head}")
def test_roles_are_of_outputs(task: Task) -> None:
    axes = {spec.name: spec.axes for spec in task.outputs}
    of_beams = {name for beam in task.beams for name in (beam.index, beam.probability, beam.starts) if name}
    assert {*task.scores, *task.vectors, *task.token_outputs, *of_beams} <= axes.keys()
    assert task.scores or task.vectors or task.beams, "an output that quality can be measured by"
    assert not set(task.scores) & set(task.vectors)
    assert all(axes[name][: len(task.rows) + 1] == (*task.rows, "sequence") for name in task.token_outputs)
    for beam in task.beams:
        assert axes[beam.index] == axes[beam.probability]
        if beam.starts is not None:
            assert axes[beam.index][-1] == f"end_n_top * {axes[beam.starts][-1]}", "ends are (end, start), flattened"
