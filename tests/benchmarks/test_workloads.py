"""The workloads have the tokens that their descriptions state, and every way to batch answers each row once."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.workloads import (
    ALL_LOGITS,
    AS_GIVEN,
    AS_IT_COMES,
    AT_MASK,
    BUDGET,
    CPU_WORKLOADS,
    MASK,
    ONE_BY_ONE,
    OWN,
    PADDED_WAYS,
    SORTED,
    TEXT_ROWS,
    Row,
    Workload,
    draw_groups,
    draw_lengths,
    fixed,
    plan,
    text_batches,
    useful_ways,
)

# name → groups (None: any number), sequences, tokens, shortest and longest allowed
STATED = {
    "1x16": (1, 1, 16, 16, 16),
    "1x128": (1, 1, 128, 128, 128),
    "8x128": (1, 8, 1024, 128, 128),
    "mixed": (1, 8, 512, 10, 128),
    "short": (1, 32, 736, 6, 40),
    "stream": (1, 134, 8750, 8, 128),
    "online": (None, 134, 8750, 8, 128),
    "fill-mask": (1, 1, 128, 128, 128),
}


def test_every_workload_is_stated() -> None:
    assert [workload.name for workload in CPU_WORKLOADS] == list(STATED)


@pytest.mark.parametrize("workload", CPU_WORKLOADS, ids=lambda workload: workload.name)
@pytest.mark.parametrize("seed", range(5))
def test_stated_numbers(workload: Workload, seed: int) -> None:
    groups, sequences, tokens, shortest, longest = STATED[workload.name]
    draw = workload.draw(np.random.default_rng(seed), 500, 15)
    lengths = [len(row) for group in draw for row in group]
    assert groups in (None, len(draw))
    assert (len(lengths), sum(lengths)) == (sequences, tokens)
    assert shortest <= min(lengths)
    assert max(lengths) == longest
    rows = [row for group in draw for row in group]
    assert all(0 < token < 500 for row in rows for token in row.input_ids)
    if workload.task == "fill-mask":
        assert [row.input_ids.count(MASK) for row in rows] == [1]
        assert all(row.mask is not None and row.input_ids[row.mask] == MASK for row in rows)


def test_half_of_mixed_is_padding() -> None:
    (group,) = next(w for w in CPU_WORKLOADS if w.name == "mixed").draw(np.random.default_rng(0), 500, 1)
    assert sum(map(len, group)) / (len(group) * max(map(len, group))) == 0.5


def test_online_comes_in_groups_of_2_to_8_in_the_streams_lengths() -> None:
    online = next(w for w in CPU_WORKLOADS if w.name == "online")
    for seed in range(20):
        assert all(2 <= len(group) <= 8 for group in online.draw(np.random.default_rng(seed), 500, 1))


def test_draws_differ_and_repeat_with_the_seed() -> None:
    stream = next(w for w in CPU_WORKLOADS if w.name == "stream")
    rng = np.random.default_rng(3)
    first, second = stream.draw(rng, 500, 1), stream.draw(rng, 500, 1)
    assert [len(row) for row in first[0]] != [len(row) for row in second[0]]
    assert stream.draw(np.random.default_rng(3), 500, 1) == first


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 20), st.integers(0, 60), st.floats(0, 1))
def test_drawn_lengths_hold_their_bounds(seed: int, count: int, low: int, spread: int, share: float) -> None:
    high = low + spread
    total = round(count * (low + share * spread))
    lengths = draw_lengths(np.random.default_rng(seed), count, low, high, total)
    assert (len(lengths), sum(lengths)) == (count, total)
    assert all(low <= length <= high for length in lengths)


def test_lengths_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="No 3 lengths between 2 and 4 sum to 13"):
        draw_lengths(np.random.default_rng(0), 3, 2, 4, 13)


@given(st.integers(0, 2**32), st.integers(2, 200))
def test_groups_cover_all(seed: int, count: int) -> None:
    sizes = draw_groups(np.random.default_rng(seed), count, 2, 8)
    assert sum(sizes) == count
    assert all(2 <= size <= 8 for size in sizes)


def _partitions(items: list[int]) -> list[list[list[int]]]:
    """Every way to split the items into batches."""
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    return [
        [[first, *chosen], *others]
        for size in range(len(rest) + 1)
        for chosen in combinations(rest, size)
        for others in _partitions([item for item in rest if item not in chosen])
    ]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6))
def test_sorted_plan_is_as_good_as_any_within_the_budget(lengths: list[int]) -> None:
    """The plan holds the budget and pads no more than the best of all partitions with as few batches."""

    def padded(batches: list[list[int]]) -> int:
        return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)

    def fits(batches: list[list[int]]) -> bool:
        return all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= BUDGET for b in batches)

    found = plan(SORTED, lengths, None)
    assert fits(found)
    allowed = [batches for batches in _partitions(list(range(len(lengths)))) if fits(batches)]
    assert len(found) == min(map(len, allowed))
    # longest first with full batches may pad a little more than the best split into as many
    best = min(padded(batches) for batches in allowed if len(batches) == len(found))
    assert padded(found) <= best + BUDGET


@given(st.lists(st.integers(1, 128), min_size=1, max_size=50), st.integers(1, 9))
def test_every_way_answers_each_row_once(lengths: list[int], rows: int) -> None:
    for way in (*PADDED_WAYS, AT_MASK, ALL_LOGITS):
        batches = plan(way, lengths, rows)
        assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
        if way == AS_IT_COMES:
            assert [i for batch in batches for i in batch] == list(range(len(lengths)))
            assert all(len(batch) == rows for batch in batches[:-1])
        if way == ONE_BY_ONE:
            assert all(len(batch) == 1 for batch in batches)


@given(st.lists(st.integers(1, 384), max_size=100))
def test_many_texts_go_in_batches_of_like_length(lengths: list[int]) -> None:
    batches = text_batches(lengths)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    if len(lengths) <= TEXT_ROWS:
        assert len(batches) == 1
    else:
        assert all(len(batch) == TEXT_ROWS for batch in batches[:-1])
        ordered = [lengths[i] for batch in batches for i in batch]
        assert ordered == sorted(lengths, reverse=True)


def test_unknown_way() -> None:
    with pytest.raises(ValueError, match="Unknown way 'backwards'"):
        plan("backwards", [1], None)


def test_useful_ways() -> None:
    def ways(workload: Workload, given: tuple[str, ...]) -> list[str]:
        return useful_ways(given, workload, workload.draw(np.random.default_rng(0), 100, 1))

    single, many = Workload("a", "", fixed(1, 9)), Workload("b", "", fixed(4, 9))
    assert ways(single, PADDED_WAYS) == [AS_IT_COMES]
    assert ways(single, (*PADDED_WAYS, OWN)) == [OWN]
    assert ways(many, (*PADDED_WAYS, OWN)) == [*PADDED_WAYS, OWN]
    mask = Workload("c", "", fixed(1, 9), task="fill-mask")
    assert ways(mask, (AT_MASK, ALL_LOGITS)) == [AT_MASK, ALL_LOGITS]
    assert ways(mask, (ALL_LOGITS,)) == [ALL_LOGITS]
    assert ways(mask, (OWN,)) == [OWN]  # a bound
    assert ways(Workload("d", "", fixed(2, 9), do="texts"), PADDED_WAYS) == [AS_GIVEN]
    assert ways(Workload("d", "", fixed(2, 9), do="texts"), ()) == []


def test_rows_travel_as_json() -> None:
    assert Row(*Row([1, 7, 1], 2, 1).to_json()) == Row([1, 7, 1], 2, 1)
