"""The packed layout against each row alone, over random configurations and length mixes: every head."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.parity import Case, assert_close, make_case, seeds
from xlm_export.families.layouts import PackedBatch
from xlm_runtime.model.packing import pack, plan_packing
from xlm_runtime.tasks import TASKS, Task, graph_inputs, graph_outputs

SEEDS = pytest.mark.parametrize(("prefix", "seed"), seeds(xlm=12, others=1))
# text-generation has fill-mask's graph here
HEADS = [task for task in TASKS if task.name != "text-generation"]


def packed_inputs(case: Case, task: Task, further: dict[str, Tensor]) -> dict[str, Tensor]:
    """Through numpy, as the runtime does it."""
    arrays = {name: value.numpy() for name, value in (case.inputs | further).items()}
    optional = tuple(name for name in ("token_type_ids", "inputs_embeds") if name in arrays)
    specs = graph_inputs(task, case.config, optional, layout="packed")
    packed = pack({"langs": np.zeros_like(arrays["attention_mask"]), **arrays}, specs, case.config.summary_type)
    for spec in specs:
        assert packed[spec.name].ndim == len(spec.axes), spec.name
    return {name: torch.from_numpy(value) for name, value in packed.items()}


def answers(case: Case, task: Task, further: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """The packed answers, as the padded graph gives them."""
    with torch.no_grad():
        tensors = case.ours.forward_packed(PackedBatch(**packed_inputs(case, task, further)))
    specs = graph_outputs(task, case.config, False, False, layout="packed")
    outputs = {spec.name: tensor.numpy() for spec, tensor in zip(specs, tensors, strict=True)}
    mask = (case.inputs | further)["attention_mask"].numpy() != 0
    inputs = graph_inputs(task, case.config, layout="packed")
    return plan_packing(mask, inputs, case.config.summary_type).unpack(outputs, specs)


def with_langs(case: Case, row: dict[str, Tensor]) -> dict[str, Tensor]:
    """A packed graph always takes languages, where the weights have them."""
    ids = row["attention_mask"]
    return {"langs": torch.zeros_like(ids), **row} if case.config.uses_langs else row


@SEEDS
@pytest.mark.parametrize("task", HEADS, ids=lambda task: task.head)
def test_a_packed_row_is_the_row_alone(task: Task, prefix: str, seed: int) -> None:
    options = {"id2label": {0: "start", 1: "end"}} if task.head == "ForQuestionAnsweringSimple" else {}
    case = make_case(prefix + task.head, seed, **options)
    mask, rng = case.inputs["attention_mask"], np.random.default_rng(seed)
    batch, longest = mask.shape
    further: dict[str, Tensor] = {}
    places = np.flatnonzero(mask.numpy())
    if task.kept == "logit_positions":
        further["logit_positions"] = torch.from_numpy(rng.choice(places, rng.integers(1, len(places) + 1)))
    if task.rows[-1] == "num_choices":
        further = {name: value.unsqueeze(1) for name, value in case.inputs.items()}
    beam = "p_mask" in (spec.name for spec in task.extra_inputs)
    if beam:
        p_mask = torch.from_numpy(rng.random((batch, longest)) < 0.3).float()
        p_mask[:, 0] = 0  # one token can be an answer, so that no two candidates tie
        cls_index = torch.tensor([rng.integers(0, length) for length in case.lengths])
        further = {"p_mask": p_mask, "cls_index": cls_index}
    got = answers(case, task, further)
    for i, length in enumerate(case.lengths):
        row: dict[str, Any] = with_langs(case, case.row(i))
        if task.rows[-1] == "num_choices":
            row = {name: value.unsqueeze(1) for name, value in row.items()}
        if beam:
            row |= {"p_mask": p_mask[i : i + 1, :length], "cls_index": cls_index[i : i + 1]}
        with torch.no_grad():
            alone = case.ours(**row)
        for name, values in got.items():
            want = getattr(alone, name)[0]
            if task.kept == "logit_positions":
                positions = further["logit_positions"].numpy()
                mine = positions // longest == i
                assert_close(torch.from_numpy(values[mine]), want[positions[mine] % longest], f"row {i}")
                continue
            ours = torch.as_tensor(values[i, :length] if name in task.token_outputs else values[i])
            if beam:  # candidates of probability 0 may come in any order, and what follows on them with it
                starts = alone.start_top_log_probs[0] > 1e-4
                real = starts if name.startswith("start") else starts.repeat(case.config.end_n_top)
                if name == "end_top_index":
                    real = real & (alone.end_top_log_probs[0] > 1e-4)
                if name != "cls_logits":
                    ours, want = ours[real], want[real]
            assert_close(ours, want, f"{name} of row {i}")
