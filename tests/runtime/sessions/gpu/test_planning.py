"""Profiles, buckets and buffers, against obvious twins over random sizes."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.calls import Planner
from xlm_runtime.sessions.gpu.padding import Placement, cut, fill, join, split, view
from xlm_runtime.sessions.gpu.planning import (
    ALIGNMENT,
    ANY_SHAPE,
    Profile,
    Region,
    Tensor,
    bucket_dims,
    bucket_size,
    buffer_size,
    choose_profile,
    plan_buffer,
    read_dims,
    read_profile,
)

IDS = Tensor("input_ids", "int64", ("batch", "sequence"))
MASK = Tensor("attention_mask", "int64", ("batch", "past_sequence + sequence"))
KEPT = Tensor("logit_positions", "int64", ("kept",))
KEY = Tensor("past_key_values.0.key", "bfloat16", ("batch", 4, "past_sequence", 8))
LOGITS = Tensor("logits", "float16", ("kept", 50))
TENSORS = (IDS, MASK, KEPT, KEY)
FEW = settings(max_examples=40, deadline=None)
NAMES = ("batch", "sequence", "kept", "past_sequence")


def work(dims: dict[str, int]) -> int:
    return sum(tensor.nbytes(dims) for tensor in TENSORS)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    low = {name: draw(st.integers(0 if name == "past_sequence" else 1, 40)) for name in NAMES}
    return Profile(0, "random", low, {name: size + draw(st.integers(0, 100)) for name, size in low.items()})


sizes = st.fixed_dictionaries({name: st.integers(0 if name == "past_sequence" else 1, 90) for name in NAMES})
all_profiles = st.lists(profiles(), min_size=1, max_size=5).map(
    lambda drawn: [replace(profile, index=i) for i, profile in enumerate(drawn)]
)


def cost(profile: Profile, dims: dict[str, int]) -> list[int]:
    """What a call costs in a profile, by an obvious count of the elements that it is padded to."""
    costs = []
    for sizes in ({name: max(size, profile.low[name]) for name, size in dims.items()}, profile.high):
        b, s, k, p = (sizes[name] for name in NAMES)
        costs.append(8 * b * s + 8 * b * (p + s) + 8 * k + 2 * b * 4 * p * 8)
    return [*costs, profile.index]


@FEW
@given(all_profiles, sizes, st.booleans())
def test_the_profile_is_the_cheapest_that_fits(drawn: list[Profile], dims: dict[str, int], hold: bool) -> None:
    fixed = {"batch": dims["batch"], "past_sequence": dims["past_sequence"]} if hold else {}
    best = None
    for profile in drawn:
        small_enough = all(dims[name] <= profile.high[name] for name in NAMES)
        large_enough = all(dims[name] >= profile.low[name] for name in fixed)
        fits = small_enough and large_enough
        if fits and (best is None or cost(profile, dims) < cost(best, dims)):
            best = profile
    if best is None:
        with pytest.raises(EngineError, match=r"No profile of the engine takes .*batch \d+.*--profile"):
            choose_profile(drawn, dims, work, fixed)
        return
    assert choose_profile(drawn, dims, work, fixed) is best
    bucket = bucket_dims(dims, best, fixed)
    for name in NAMES:
        assert best.low[name] <= bucket[name] <= best.high[name]
        assert bucket[name] >= dims[name]
        assert name not in fixed or bucket[name] == fixed[name]


@pytest.mark.parametrize(
    ("name", "rungs"),
    [
        ("batch", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]),
        ("kept", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32]),
        ("sequence", [1, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512]),
        ("past_sequence", [0, 64, 128, 256, 512, 1024]),
        ("num_choices", list(range(1, 20))),
    ],
)
def test_a_bucket_is_the_next_rung(name: str, rungs: list[int]) -> None:
    for size in range(rungs[0], rungs[-1] + 1):
        assert bucket_size(name, size) == next(rung for rung in rungs if rung >= size)


def test_any_shape_is_a_profile_too() -> None:
    dims = {"batch": 1000, "sequence": 3, "kept": 5, "past_sequence": 0}
    assert choose_profile([ANY_SHAPE], dims, work) is ANY_SHAPE
    assert bucket_dims(dims, ANY_SHAPE)["sequence"] == 8


@FEW
@given(all_profiles, st.data())
def test_a_buffer_holds_every_call_of_every_profile(drawn: list[Profile], data: st.DataObject) -> None:
    size = buffer_size(TENSORS, drawn)
    for profile in drawn:
        dims = {name: data.draw(st.integers(profile.low[name], profile.high[name])) for name in NAMES}
        regions, end = plan_buffer(TENSORS, dims)
        assert end <= size
        taken = sorted((regions[tensor.name].offset, regions[tensor.name].size) for tensor in TENSORS)
        for (offset, length), (following, _) in zip(taken, [*taken[1:], (end, 0)], strict=True):
            assert offset % ALIGNMENT == 0
            assert offset + length <= following, "regions overlap"
            assert offset < following, "an empty tensor has an address of its own"
        for tensor in TENSORS:
            assert regions[tensor.name].size == prod(tensor.shape(dims)) * tensor.storage.itemsize


@FEW
@given(sizes)
def test_sizes_are_read_from_shapes(dims: dict[str, int]) -> None:
    shapes = {tensor.name: tensor.shape(dims) for tensor in TENSORS}
    assert read_dims(TENSORS, shapes) == dims
    same = {name: (shape, shape, shape) for name, shape in shapes.items()}
    assert read_profile(3, "one", TENSORS, same) == Profile(3, "one", dims, dims)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": (2, 3, 4)}, r"input_ids has the shape \(2, 3, 4\); expected \(batch, sequence\)"),
        ({"input_ids": (3, 3)}, r"attention_mask has the shape \(2, 7\), but batch is 3 in another input"),
        ({"attention_mask": (2, 6)}, r"expected \(batch, past_sequence \+ sequence\), here \(2, 7\)"),
        ({"past_key_values.0.key": (2, 4, 4, 9)}, r"expected \(batch, 4, past_sequence, 8\), here \(2, 4, 4, 8\)"),
        ({"langs": (2, 3)}, "inputs are input_ids, attention_mask, .*; given: .*langs"),
    ],
)
def test_shapes_that_contradict(change: dict[str, tuple[int, ...]], message: str) -> None:
    shapes = {tensor.name: tensor.shape(dict(zip(NAMES, (2, 3, 1, 4), strict=True))) for tensor in TENSORS}
    with pytest.raises(EngineError, match=message):
        read_dims(TENSORS, shapes | change)


def test_outputs_follow_from_the_inputs() -> None:
    engine: Any = SimpleNamespace(name="model.onnx", inputs=(IDS, MASK), outputs=(LOGITS,), profiles=())
    with pytest.raises(EngineError, match=r"output logits, \('kept', 50\), does not follow .* in 'model.onnx'"):
        Planner(engine, buckets=True)


def place(tensor: Tensor, dims: dict[str, int], bucket: dict[str, int]) -> Placement:
    return Placement.plan(tensor, Region(8, tensor.nbytes(bucket)), dims, bucket)


def pad(tensor: Tensor, value: np.ndarray, dims: dict[str, int], bucket: dict[str, int]) -> np.ndarray:
    """The region's bytes."""
    buffer = np.full(tensor.nbytes(bucket) + 16, 0xFF, np.uint8)
    where = place(tensor, dims, bucket)
    fill(where, value, view(where, buffer))
    assert (buffer[:8] == 0xFF).all()
    assert (buffer[-8:] == 0xFF).all()
    return buffer[8:-8]


@FEW
@given(sizes, sizes)
def test_padding_and_cutting_give_the_array_back(dims: dict[str, int], more: dict[str, int]) -> None:
    bucket = {name: size + more[name] for name, size in dims.items()}
    rng = np.random.default_rng(0)
    for tensor in (IDS, MASK, LOGITS, KEY):
        value = rng.integers(0, 100, tensor.shape(dims)).astype(np.float32 if tensor is KEY else tensor.storage)
        padded = pad(tensor, value, dims, bucket)
        where = place(tensor, dims, bucket)
        np.testing.assert_array_equal(cut(where, view(where, np.pad(padded, (8, 0)))), value)
        rest = padded.view(tensor.storage)
        assert rest.astype(np.float64).sum() == padded_sum(tensor, value), "all but the array is zero"


def padded_sum(tensor: Tensor, value: np.ndarray) -> float:
    if tensor is KEY:  # in bits
        return float((value.view(np.uint32) >> 16).astype(np.float64).sum())
    return float(value.astype(np.float64).sum())


@FEW
@given(sizes, sizes, st.data())
def test_logit_positions_name_the_same_tokens(dims: dict[str, int], more: dict[str, int], data: st.DataObject) -> None:
    bucket = {name: size + more[name] for name, size in dims.items()}
    tokens = dims["batch"] * dims["sequence"]
    kept = data.draw(st.lists(st.integers(0, tokens - 1), min_size=dims["kept"], max_size=dims["kept"]))
    ids = np.arange(tokens).reshape(dims["batch"], dims["sequence"])
    padded_ids = pad(IDS, ids, dims, bucket).view(np.int64)
    positions = pad(KEPT, np.array(kept, np.int64), dims, bucket).view(np.int64)
    np.testing.assert_array_equal(padded_ids[positions[: len(kept)]], ids.reshape(-1)[kept])
    assert (positions < bucket["batch"] * bucket["sequence"]).all()


def test_padding_can_be_no_answer() -> None:
    p_mask = Tensor("p_mask", "float32", ("batch", "sequence"))
    dims, bucket = {"batch": 1, "sequence": 2}, {"batch": 2, "sequence": 3}
    padded = pad(p_mask, np.zeros((1, 2), np.float32), dims, bucket).view(np.float32)
    np.testing.assert_array_equal(padded, [0, 0, 1, 1, 1, 1])


@FEW
@given(st.integers(2, 9), st.integers(1, 5), st.data())
def test_halves_join_to_the_whole(batch: int, sequence: int, data: st.DataObject) -> None:
    """An engine that looks up every token's value, in the order of `logit_positions`."""
    places = st.lists(st.integers(0, batch * sequence - 1), max_size=12)
    positions = np.array(data.draw(places), np.int64)
    ids = np.random.default_rng(0).permutation(batch * sequence).reshape(batch, sequence)
    inputs = {"input_ids": ids, "logit_positions": positions}
    outputs = (Tensor("hidden", "int64", ("batch", "sequence")), Tensor("logits", "int64", ("kept",)))

    def run(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        hidden = values["input_ids"] * 2
        return {"hidden": hidden, "logits": hidden.reshape(-1)[values["logit_positions"]]}

    dims = {"batch": batch, "sequence": sequence, "kept": len(positions)}
    parts = split((IDS, KEPT), inputs, dims)
    assert sum(len(part["input_ids"]) for part, _ in parts) == batch
    joined = join(outputs, [(run(part), kept) for part, kept in parts], ["hidden", "logits"])
    for name, value in run(inputs).items():
        np.testing.assert_array_equal(joined[name], value)
