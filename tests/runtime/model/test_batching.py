"""Batches by length, answers in order, streams in bounded windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm_runtime.errors import InputError
from xlm_runtime.model.batching import (
    BatchOptions,
    answer_groups,
    pad_rows,
    plan_batches,
    token_types,
)


@dataclass(frozen=True)
class Row:
    input_ids: tuple[int, ...]
    lang_id: int = 0
    second: int | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def as_listed(rows: Sequence[Row], outputs: Sequence[Any]) -> list[Any]:
    """What the model gave for the rows of a group."""
    assert len(rows) == len(outputs)
    return list(outputs)


def at_once(forward: Callable[[list[Row]], Any]) -> Callable[[list[Row]], Callable[[], Any]]:
    """What computes a batch before it returns, as a CPU does."""

    def start(batch: list[Row]) -> Callable[[], Any]:
        outputs = forward(batch)
        return lambda: outputs

    return start


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 300))
def test_every_row_is_in_one_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


@given(st.lists(st.lists(st.integers(1, 9), max_size=4), max_size=40), st.integers(1, 30), st.integers(1, 20))
def test_groups_come_back_whole_and_in_order(groups: list[list[int]], budget: int, window: int) -> None:
    rows = [[Row((n,) * n) for n in group] for group in groups]
    options = BatchOptions(max_tokens=budget, window_rows=window)
    answers = answer_groups(rows, at_once(lambda batch: [len(row) for row in batch]), as_listed, options)
    assert list(answers) == groups


def test_a_stream_is_read_window_by_window() -> None:
    taken: list[int] = []

    def stream() -> Iterator[list[Row]]:
        for i in range(1000):
            taken.append(i)
            yield [Row((1, 2, 3))]

    answers = answer_groups(stream(), at_once(lambda batch: batch), as_listed, BatchOptions(window_rows=10))
    assert taken == []
    next(answers)
    assert len(taken) == 10
    assert sum(1 for _ in answers) == 999


def test_a_window_is_bounded_in_tokens_too() -> None:
    taken: list[int] = []

    def stream() -> Iterator[list[Row]]:
        for i in range(100):
            taken.append(i)
            yield [Row((1,) * 50)]

    next(
        answer_groups(
            stream(), at_once(lambda batch: batch), as_listed, BatchOptions(window_rows=1000, window_tokens=200)
        )
    )
    assert len(taken) == 4


def test_answers_before_a_bad_item_are_given_before_its_error() -> None:
    def stream() -> Iterator[list[Row]]:
        yield [Row((1,))]
        yield [Row((1, 2))]
        raise InputError("the third")

    answers = answer_groups(stream(), at_once(lambda batch: [len(row) for row in batch]), as_listed, BatchOptions())
    assert next(answers) == [1]
    assert next(answers) == [2]
    with pytest.raises(InputError, match="the third"):
        next(answers)


def test_rows_are_padded_to_the_longest() -> None:
    arrays = pad_rows([Row((5, 6, 7), 3), Row((8,), 1)], pad_id=2)
    assert arrays["input_ids"].tolist() == [[5, 6, 7], [8, 2, 2]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert arrays["langs"].tolist() == [[3, 3, 3], [1, 1, 1]]
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.int64)}


def test_a_budget_must_be_positive() -> None:
    with pytest.raises(InputError, match="max_tokens is 0"):
        BatchOptions(max_tokens=0)


def test_a_group_is_answered_as_soon_as_its_rows_are_there() -> None:
    happened: list[str] = []

    def forward(batch: list[Row]) -> list[int]:
        happened.append(f"forward {[len(row) for row in batch]}")
        return [len(row) for row in batch]

    def postprocess(rows: Sequence[Row], outputs: Sequence[int]) -> int:
        happened.append(f"postprocess {list(outputs)}")
        return sum(outputs)

    groups = [[Row((1,) * 9), Row((1,))], [Row((1,) * 8)], []]
    answers = list(answer_groups(groups, at_once(forward), postprocess, BatchOptions(max_tokens=9)))
    assert answers == [10, 8, 0]
    assert happened == [
        "postprocess []",
        "forward [9]",
        "forward [8]",
        "postprocess [8]",
        "forward [1]",
        "postprocess [9, 1]",
    ]


def test_token_types() -> None:
    assert token_types([None, 3, 1], 5).tolist() == [[0] * 5, [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]]
