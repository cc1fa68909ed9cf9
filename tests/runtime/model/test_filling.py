"""Batches filled up to few shapes: the same answers, and the shapes that a session meets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from xlm_runtime.bundle import Bundle
from xlm_runtime.filled_sizes import filled_size
from xlm_runtime.model.filling import FilledSession
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import PAST

RTOL = 2e-5
BUNDLES = ("feature-extraction", "fill-mask", "text-classification", "multiple-choice", "token-classification",
           "question-answering", "question-answering-simple", "text-generation")  # fmt: skip


class Spy:
    """A session that remembers the shapes it was called with."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.input_names, self.output_names = session.input_names, session.output_names
        self.shapes: set[tuple[tuple[int, ...], ...]] = set()

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        self.shapes.add(tuple(value.shape for value in inputs.values()))
        return self._session.run(inputs)


def test_sizes() -> None:
    assert [filled_size(size, 16) for size in (0, 1, 5, 7, 9, 17, 33, 100, 129, 512)] == [
        *(0, 1, 5, 7, 10, 20, 40, 112, 144, 512)
    ]
    assert all(size <= filled_size(size, 16) <= 1.25 * size for size in range(1000))
    assert len({filled_size(size, 16) for size in range(1, 513)}) == 48


def feed(bundle: Bundle, rng: np.random.Generator, rows: int, longest: int, past: int = 0) -> dict[str, np.ndarray]:
    """A batch of rows of random lengths, the first the longest."""
    graph, config = bundle.graph(), bundle.config
    axes = {spec.name: spec.axes for spec in graph.inputs}
    sizes = {"batch": rows, "sequence": longest, "num_choices": 2, "past_sequence": past, "n_heads": config.n_heads,
             "head_dim": config.head_dim, "past_sequence + sequence": past + longest, "kept": 3}  # fmt: skip
    shape = tuple(sizes[axis] for axis in axes["input_ids"])
    lengths = rng.integers(1, longest + 1, (*shape[:-1], 1))
    lengths.reshape(-1)[0] = longest
    mask = (np.arange(longest) < lengths).astype(np.int64)
    real = np.flatnonzero(mask.reshape(-1, longest))
    arrays = {
        "input_ids": rng.integers(20, 60, shape),
        "attention_mask": np.concatenate((np.ones((*shape[:-1], past), np.int64), mask), axis=-1),
        "langs": np.ones(shape, np.int64),
        "position_ids": past + np.broadcast_to(np.arange(longest), shape),
        "logit_positions": rng.choice(real, 3),
        "p_mask": rng.integers(0, 2, shape).astype(np.float32) * (np.arange(longest) > 0),
        "cls_index": np.zeros(rows, np.int64),
    }
    for name in axes:
        if name.startswith(PAST):
            arrays[name] = rng.standard_normal([sizes[axis] for axis in axes[name]]).astype(np.float32)
    return {name: np.ascontiguousarray(arrays[name]) for name in axes}


@pytest.mark.parametrize("name", BUNDLES)
def test_the_same_answers(name: str, bundles: Bundles) -> None:
    bundle = Bundle.load(bundles(name))
    graph = bundle.graph()
    session = open_session(bundle.folder / graph.file)
    filled = FilledSession(session, graph.inputs, graph.outputs, 16)
    rng = np.random.default_rng(0)
    for rows, longest, past in ((1, 5, 0), (3, 17, 0), (9, 33, 11), (17, 9, 3)):
        past = past if graph.has_cache else 0
        inputs = feed(bundle, rng, rows, longest, past)
        want, got = session.run(inputs), filled.run(inputs)
        assert want.keys() == got.keys()
        for key, value in want.items():
            assert got[key].shape == value.shape
            real = value
            if "sequence" in next(spec.axes for spec in graph.outputs if spec.name == key) and key.find("present"):
                mask = inputs["attention_mask"] != 0  # what stands at padding means nothing
                real, got[key] = value[mask], got[key][mask]
            if key.startswith("present."):  # (rows, n_heads, new, head_dim)
                mask = inputs["attention_mask"][:, past:] != 0
                real, got[key] = value.transpose(0, 2, 1, 3)[mask], got[key].transpose(0, 2, 1, 3)[mask]
            np.testing.assert_allclose(got[key], real, rtol=0, atol=RTOL * max(1.0, np.abs(real).max()))


def test_few_shapes(bundles: Bundles) -> None:
    bundle = Bundle.load(bundles("text-classification"))
    spy = Spy(open_session(bundle.folder / "model.onnx"))
    filled = FilledSession(spy, bundle.graph().inputs, bundle.graph().outputs, 16)
    rng = np.random.default_rng(0)
    for _ in range(300):
        filled.run(feed(bundle, rng, int(rng.integers(1, 33)), int(rng.integers(1, 65))))
    assert len(spy.shapes) < 200
    rows, lengths = ({shape[0][i] for shape in spy.shapes} for i in (0, 1))
    assert len(rows) == len({filled_size(size, 16) for size in range(1, 33)})
    assert lengths == {filled_size(size, 16) for size in range(1, 65)}
