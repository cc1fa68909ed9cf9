"""Packed batches that are filled up and captured: a row's answer is the one that it has alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.sessions.gpu.fake import FakeDevice
from tests.runtime.sessions.gpu.packed_reference import ReferenceExecutor, ReferenceSession, small_config
from xlm_runtime.filled_sizes import Buckets
from xlm_runtime.model.packing import PackedSession
from xlm_runtime.sessions.gpu.session import GpuSession
from xlm_runtime.tasks import TensorSpec, cuda_packed_inputs, find_task, graph_inputs

# the model's class, its summary, and what its head gives
HEADS = {
    "tokens": ("XLMForTokenClassification", "first", TensorSpec("logits", "float", ("tokens", "num_labels"))),
    "kept": ("XLMWithLMHeadModel", "first", TensorSpec("logits", "float", ("kept", "vocab_size"))),
    "first": ("XLMForSequenceClassification", "first", TensorSpec("logits", "float", ("batch", "num_labels"))),
    "last": ("XLMForSequenceClassification", "last", TensorSpec("logits", "float", ("batch", "num_labels"))),
    "mean": ("XLMForSequenceClassification", "mean", TensorSpec("logits", "float", ("batch", "num_labels"))),
    "beam": ("XLMForQuestionAnswering", "first", TensorSpec("cls_logits", "float", ("batch",))),
    "choices": ("XLMForMultipleChoice", "first", TensorSpec("logits", "float", ("batch", "num_choices"))),
}  # fmt: skip
LONGEST = 40


class Machine:
    """A head's graph on a device of fakes, and without one."""

    def __init__(self, head: str) -> None:
        architecture, summary, output = HEADS[head]
        config, task = small_config(summary_type=summary), find_task(architecture)
        specs = cuda_packed_inputs(task, config, graph_inputs(task, config, layout="packed"))
        self.device = FakeDevice()
        self.executor = ReferenceExecutor(self.device, specs, (output,))
        session = GpuSession(self.executor, self.device, buckets=True, graphs=8)
        self.filled = PackedSession(session, specs, (output,), summary, Buckets())
        self.plain = PackedSession(ReferenceSession(specs, (output,)), specs, (output,), summary)
        self.output = output
        self.names = self.filled.input_names


def batch(lengths: list[int], head: str, rng: np.random.Generator, left: bool = False) -> dict[str, np.ndarray]:
    """A padded batch of random ids, and every further input."""
    longest = max(lengths)
    mask = np.arange(longest) < np.array(lengths)[:, None]
    mask = mask[:, ::-1] if left else mask
    shape = mask.shape
    arrays = {
        "input_ids": rng.integers(0, 200, shape),
        "attention_mask": mask.astype(np.int64),
        "langs": rng.integers(0, 50, shape),
        "logit_positions": rng.choice(np.flatnonzero(mask), 5),
        "p_mask": rng.integers(0, 2, shape).astype(np.float32),
        "cls_index": mask.argmax(axis=1),
    }
    if head == "choices":
        for name in ("input_ids", "attention_mask", "langs"):
            arrays[name] = arrays[name].reshape(-1, 2, longest)
    return arrays


def alone(machine: Machine, arrays: Mapping[str, np.ndarray], row: int) -> np.ndarray:
    """One row's answer without the others, in the plain session."""
    longest = arrays["input_ids"].shape[-1]
    one = {name: value[row : row + 1] for name, value in arrays.items() if name != "logit_positions"}
    positions = arrays["logit_positions"]
    one["logit_positions"] = positions[positions // longest == row] - row * longest
    return machine.plain.run({name: one[name] for name in machine.names})[machine.output.name]


@pytest.mark.parametrize("head", list(HEADS))
def test_a_row_answers_as_it_does_alone(head: str) -> None:
    machine = Machine(head)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=9), st.booleans(), st.integers(0, 99))
    def check(lengths: list[int], left: bool, seed: int) -> None:
        lengths = lengths * 2 if head == "choices" else lengths
        for repeat in range(4):  # as it is, made ready, captured, replayed
            arrays = batch(lengths, head, np.random.default_rng((seed, repeat)), left)
            found = machine.filled.run({name: arrays[name] for name in machine.names})[machine.output.name]
            rows = len(arrays["input_ids"])
            if head == "kept":
                row_of = arrays["logit_positions"] // max(lengths)
                assert len(found) == len(row_of)
                parts = [(found[row_of == row], row) for row in range(rows)]
            else:
                assert len(found) == rows
                parts = [(found[row : row + 1], row) for row in range(rows)]
            for part, row in parts:
                if part.size:
                    np.testing.assert_allclose(part, alone(machine, arrays, row), rtol=1e-9, atol=1e-9)

    check()
    assert machine.device.log.count("replay") > machine.device.log.count("capture") > 0


def test_what_is_filled_up_and_what_is_captured() -> None:
    machine = Machine("first")
    rng = np.random.default_rng(0)

    def run(lengths: list[int]) -> None:
        arrays = batch(lengths, "first", rng)
        machine.filled.run({name: arrays[name] for name in machine.names})

    for lengths in ([5, 3], [9], [4, 4, 4], [16]):
        run(lengths)
    shapes = [(each["input_ids"], each["token_offset"], each["kept_index"]) for each in machine.executor.shapes]
    assert shapes == [((16,), (4, 16), (2,)), ((16,), (2, 16), (1,)), ((16,), (4, 16), (3,)), ((16,), (1, 16), (1,))]
    large = [60] * 35
    for _ in range(4):
        run(large)
    assert machine.executor.shapes[-1]["input_ids"] == (2304,)
    assert machine.executor.shapes[-1]["token_offset"] == (64, 64)
    assert machine.executor.shapes[-1]["kept_index"] == (48,)
    assert machine.device.log.count("replay") == 2, "captured when it comes again"


@pytest.mark.parametrize("head", ["tokens", "first", "last"])
def test_rows_that_were_never_padded(head: str) -> None:
    """Their answers are those of the padded batch, bit by bit."""
    machine = Machine(head)
    assert machine.filled.takes_rows

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(1, LONGEST), min_size=1, max_size=12), st.integers(0, 99))
    def check(lengths: list[int], seed: int) -> None:
        arrays = batch(lengths, head, np.random.default_rng(seed))
        langs = arrays["langs"][:, 0]
        arrays["langs"] = np.repeat(langs[:, None], max(lengths), axis=1)
        expected = machine.filled.run({name: arrays[name] for name in machine.names})
        ids = arrays["input_ids"][arrays["attention_mask"] != 0]
        found = machine.filled.start_rows(ids, lengths, langs.tolist())()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)

    check()


@pytest.mark.parametrize("head", ["kept", "mean", "beam", "choices"])
def test_heads_that_want_padded_rows(head: str) -> None:
    assert not Machine(head).filled.takes_rows
