"""The packed layout's index arrays against slow, obvious twins, and batches by the number of tokens."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm_runtime import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.filled_sizes import Multiples
from xlm_runtime.model.batching import PACKED_PLACES, plan_batches
from xlm_runtime.model.packing import pack, plan_packing
from xlm_runtime.tasks import (
    ROW_INPUTS,
    TASKS,
    TensorSpec,
    cuda_packed_inputs,
    find_task,
    graph_inputs,
    graph_outputs,
    uses_cache,
)

FEATURES = find_task("XLMModel")
CLASSIFIER = find_task("XLMForSequenceClassification")
FILL_MASK = find_task("XLMWithLMHeadModel")
masks = st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any)


def config(**options: Any) -> XLMConfig:
    return XLMConfig(**({"vocab_size": 50, "emb_dim": 8, "n_layers": 2, "n_heads": 2, "n_langs": 3} | options))


def padded(lengths: list[int], **further: np.ndarray) -> dict[str, np.ndarray]:
    """Every token has an id of its own, and its language is its row's number."""
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.arange(mask.size).reshape(mask.shape) + 100
    langs = np.repeat(np.arange(len(lengths))[:, None], max(lengths), axis=1)
    return {"input_ids": ids, "attention_mask": mask, "langs": langs, **further}


@given(masks)
def test_every_token_finds_its_place_and_the_way_back(lengths: list[int]) -> None:
    arrays = padded(lengths)
    packed = pack(arrays, graph_inputs(FEATURES, config(), layout="packed"), "first")
    tokens = [(row, column) for row, length in enumerate(lengths) for column in range(length)]
    assert packed["input_ids"].tolist() == [arrays["input_ids"][place] for place in tokens]
    assert packed["langs"].tolist() == [row for row, _ in tokens]
    assert packed["position_ids"].tolist() == [column for _, column in tokens]
    places = [divmod(int(place), max(lengths)) for place in packed["token_index"]]
    assert len(set(places)) == len(tokens)
    for token, (row, column) in enumerate(tokens):
        line, place = places[token]
        assert packed["padded_index"][line, place] == token
        assert packed["segment_ids"][line, place] == row + 1
        assert (line, place - column) == places[token - column]  # a row stands in one line
    assert np.count_nonzero(packed["segment_ids"]) == len(tokens)
    assert packed["padded_index"].shape == packed["segment_ids"].shape
    assert packed["padded_index"].min() >= 0
    assert packed["padded_index"].max() < len(tokens)
    assert {array.dtype for array in packed.values()} == {np.dtype(np.int64)}
    specs = (TensorSpec("x", "float", ("tokens", "emb_dim")), TensorSpec("y", "float", ("batch",)))
    values = np.random.default_rng(0).normal(size=(len(tokens), 3))
    packing = plan_packing(arrays["attention_mask"] != 0, graph_inputs(FEATURES, config(), layout="packed"), "first")
    back = packing.unpack({"x": values, "y": values}, specs)
    assert back["y"] is values
    for token, place in enumerate(tokens):
        assert (back["x"][place] == values[token]).all()
    assert not back["x"][arrays["attention_mask"] == 0].any()


@given(st.lists(st.integers(0, 20), min_size=1, max_size=30).filter(any), st.integers(1, 9))
def test_lines_are_full(lengths: list[int], multiple: int) -> None:
    """No two could be one: the second of them was begun with a row that did not fit into the first."""
    packed = pack(padded(lengths), graph_inputs(FEATURES, config(), layout="packed"), "first", Multiples(1, multiple))
    longest = packed["segment_ids"].shape[1]
    assert longest % multiple == 0
    assert 0 <= longest - max(lengths) < multiple
    filled = sorted(np.count_nonzero(packed["segment_ids"], axis=1).tolist())
    assert filled[0] > 0
    assert len(filled) == 1 or filled[0] + filled[1] > longest


@given(masks)
def test_a_head_that_looks_at_rows_finds_them(lengths: list[int]) -> None:
    for task, summary in ((find_task("XLMForQuestionAnswering"), "first"), (CLASSIFIER, "mean")):
        extra = {"p_mask": np.zeros((len(lengths), max(lengths)), np.float32), "cls_index": np.zeros(len(lengths))}
        specs = graph_inputs(task, config(summary_type=summary), layout="packed")
        packed = pack(padded(lengths, **extra), specs, summary)
        mask = padded(lengths)["attention_mask"]
        assert packed["token_index"].tolist() == np.flatnonzero(mask).tolist()
        assert (packed["segment_ids"] == mask * np.arange(1, len(lengths) + 1)[:, None]).all()
        assert packed["padded_index"][mask != 0].tolist() == list(range(sum(lengths)))


@given(masks, st.integers(1, 9), st.integers(1, 9))
def test_filled_up_batches_have_their_tokens_where_they_were(lengths: list[int], tokens: int, longest: int) -> None:
    task = find_task("XLMForQuestionAnswering")
    specs = graph_inputs(task, config(), layout="packed")
    p_mask = np.zeros((len(lengths), max(lengths)), np.float32)
    arrays = padded(lengths, p_mask=p_mask, cls_index=np.zeros(len(lengths), np.int64))
    packed = pack(arrays, specs, "first")
    filled = pack(arrays, specs, "first", Multiples(tokens, longest))
    count, width = sum(lengths), filled["padded_index"].shape[1]
    step = min(tokens, max(power for power in (1, 2, 4, 8, 16) if power == 1 or power <= count / 4))
    assert len(filled["input_ids"]) % step == 0
    assert 0 <= len(filled["input_ids"]) - count < step
    assert width % longest == 0
    assert 0 <= width - max(lengths) < longest
    for spec in specs:
        assert filled[spec.name].dtype == packed[spec.name].dtype
        assert filled[spec.name].shape == tuple(
            {"tokens": len(filled["input_ids"]), "longest": width, "batch": len(lengths)}[axis] for axis in spec.axes
        )
    for name in ("input_ids", "langs", "position_ids"):
        assert filled[name][:count].tolist() == packed[name].tolist()
    for name in ("segment_ids", "padded_index", "p_mask"):
        assert (filled[name][:, : max(lengths)] == packed[name]).all()
    assert not filled["segment_ids"][:, max(lengths) :].any()
    assert (filled["p_mask"][:, max(lengths) :] == 1).all()  # no answer begins there
    places = filled["padded_index"].reshape(-1)[filled["token_index"][:count]]
    assert places.tolist() == list(range(count))
    packing = plan_packing(arrays["attention_mask"] != 0, specs, "first", Multiples(tokens, longest))
    back = packing.unpack({"x": np.arange(len(filled["input_ids"]))}, (TensorSpec("x", "float", ("tokens",)),))
    assert back["x"][arrays["attention_mask"] != 0].tolist() == list(range(count))


@given(masks, st.data())
def test_kept_positions(lengths: list[int], data: st.DataObject) -> None:
    """In any order, more than once, none in some rows."""
    longest = max(lengths)
    places = [row * longest + column for row, length in enumerate(lengths) for column in range(length)]
    positions = np.array(data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=12)), np.int64)
    packed = pack(
        padded(lengths, logit_positions=positions), graph_inputs(FILL_MASK, config(), layout="packed"), "first"
    )
    assert [places[token] for token in packed["kept_index"]] == positions.tolist()
    assert_kept_stand_in_their_lines(packed)


@given(masks, st.sampled_from(["first", "last", "mean"]))
def test_rows_for_cuda(lengths: list[int], summary_type: str) -> None:
    """Each row stands for itself: its tokens' places, those of padding behind all of them, and where rows begin."""
    settings = config(summary_type=summary_type)
    portable = graph_inputs(CLASSIFIER, settings, layout="packed")
    specs = cuda_packed_inputs(CLASSIFIER, settings, portable)
    packed = pack(padded(lengths), specs, summary_type)
    of_rows = {"token_index", "padded_index"} if summary_type == "mean" else {"kept_index"}
    assert set(packed) == {"input_ids", "position_ids", "langs", *of_rows, *(spec.name for spec in ROW_INPUTS)}
    mask = padded(lengths)["attention_mask"].reshape(-1)
    assert packed["token_offset"].shape == (len(lengths), max(lengths))
    assert packed["token_offset"].reshape(-1).tolist() == [*np.flatnonzero(mask), *np.flatnonzero(mask == 0)]
    assert packed["cumulative_sequence_length"].tolist() == [sum(lengths[:row]) for row in range(len(lengths) + 1)]
    assert {packed[spec.name].dtype for spec in ROW_INPUTS} == {np.dtype(np.int32)}
    from_the_right = padded(lengths) | {"attention_mask": padded(lengths)["attention_mask"][:, ::-1]}
    assert (pack(from_the_right, specs, summary_type)["token_offset"] == packed["token_offset"]).all()
    theirs = pack(padded(lengths), portable, summary_type)
    for name in ("input_ids", "position_ids", "langs", *of_rows):
        assert (packed[name] == theirs[name]).all()


def assert_kept_stand_in_their_lines(packed: dict[str, np.ndarray]) -> None:
    """Each kept token has a place of its own, in the line that it has among all tokens."""
    lines, most = packed["kept_padded_index"].shape
    longest = packed["padded_index"].shape[1]
    assert lines == len(packed["padded_index"])
    of_lines = packed["token_index"][packed["kept_index"]] // longest
    assert most == np.bincount(of_lines).max()
    assert len(set(packed["kept_token_index"].tolist())) == len(packed["kept_index"])
    for kept, (place, line) in enumerate(zip(packed["kept_token_index"], of_lines, strict=True)):
        assert place // most == line
        assert packed["kept_padded_index"][line, place % most] == kept


@given(masks, st.sampled_from(["first", "last", "cls_index"]))
def test_the_kept_token_of_a_summary(lengths: list[int], summary_type: str) -> None:
    packed = pack(padded(lengths), graph_inputs(CLASSIFIER, config(summary_type=summary_type), layout="packed"),
                  summary_type)  # fmt: skip
    assert_kept_stand_in_their_lines(packed)
    first = np.cumsum([0, *lengths])
    for row, length in enumerate(lengths):
        if length:
            assert packed["kept_index"][row] == first[row] + (0 if summary_type == "first" else length - 1)
    assert packed["kept_index"].min() >= 0
    assert packed["kept_index"].max() < sum(lengths)


def test_a_mean_reads_every_token() -> None:
    names = [spec.name for spec in graph_inputs(CLASSIFIER, config(summary_type="mean"), layout="packed")]
    assert "kept_index" not in names


def test_bad_batches() -> None:
    specs = graph_inputs(FILL_MASK, config(), layout="packed")
    with pytest.raises(InputError, match="no real token"):
        pack(padded([1]) | {"attention_mask": np.zeros((1, 1), np.int64)}, specs, "first")
    with pytest.raises(InputError, match="names the place 3 of 2 × 2, which is padding"):
        pack(padded([2, 1], logit_positions=np.array([0, 3])), specs, "first")


def test_what_a_packed_graph_cannot_have() -> None:
    for task in TASKS:
        with pytest.raises(InputError, match="no outputs for each layer's hidden states"):
            graph_outputs(task, config(), True, False, layout="packed")
        with pytest.raises(InputError, match="no outputs for each layer's hidden states"):
            graph_outputs(task, config(), False, True, layout="packed")
    causal = config(causal=True)
    task = find_task("XLMWithLMHeadModel", causal=True)
    with pytest.raises(InputError, match=r"A packed graph keeps no cache.*--no-cache"):
        graph_inputs(task, causal, (), uses_cache(task, causal), layout="packed")
    with pytest.raises(InputError, match="Unknown layout 'ragged'; expected one of padded, packed"):
        graph_inputs(task, causal, layout="ragged")


@given(st.lists(st.integers(1, 100), max_size=60), st.integers(1, 300))
def test_a_packed_batch_is_full_by_its_tokens(lengths: list[int], budget: int) -> None:
    batches = plan_batches(lengths, budget, packed=True)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        tokens, places = sum(lengths[i] for i in batch), len(batch) * max(lengths[i] for i in batch)
        assert len(batch) == 1 or (tokens <= budget and places <= PACKED_PLACES * budget)
    for batch, following in pairwise(batches):  # no row more had found room
        tokens, longest = sum(lengths[i] for i in batch), max(lengths[i] for i in batch)
        assert tokens + lengths[following[0]] > budget or (len(batch) + 1) * longest > PACKED_PLACES * budget


def test_padding_is_free_in_the_packed_budget() -> None:
    lengths = [100, 60, 50, 40, 6]
    assert plan_batches(lengths, 256, packed=True) == [[0, 1, 2, 3, 4]]
    assert plan_batches(lengths, 256) == [[0, 1], [2, 3, 4]]
