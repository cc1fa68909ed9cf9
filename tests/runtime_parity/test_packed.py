"""Packed bundles: every pipeline answers as with the padded bundle, the graph as transformers does for a row alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Bundles
from tests.make_bundles import PACKED
from tests.runtime.texts import LANGS, TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import pipeline
from xlm_runtime.filled_sizes import Filling, Multiples
from xlm_runtime.model.model import BundleModel
from xlm_runtime.model.opening import open_model
from xlm_runtime.model.packing import PackedSession
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import find_task

# these have the graph of another one with another last step, or, the body, with none
SLOW = ("feature-extraction", "multiple-choice", "question-answering-simple")
NAMES = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in PACKED]
MASKED = ["The <special1> stands at the edge.", "<special1> and <special1> town", "<special1>"]
LONGEST = 64
# 1 sequence and many, equal lengths, length 1 beside the longest
MIXES = ([1], [LONGEST], [9, 9, 9], [1, LONGEST, 2, 1], [31, 7, 1, 18, 2, 25])


@dataclass(frozen=True)
class Row:
    input_ids: list[int]
    lang_id: int
    second: int | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def random_rows(lengths: list[int], model: BundleModel, rng: np.random.Generator) -> list[Row]:
    config = model.config
    return [
        Row([int(i) for i in rng.integers(5, config.vocab_size, length)], int(rng.integers(0, config.n_langs)))
        for length in lengths
    ]


def further_inputs(name: str, lengths: list[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the task's pipeline adds to the tokens."""
    longest = max(lengths)
    if name == "fill-mask":
        places = [i * longest + j for i, length in enumerate(lengths) for j in range(length)]
        return {"logit_positions": rng.choice(places, rng.integers(1, min(len(places), 9) + 1))}
    if name == "question-answering":
        p_mask = (rng.random((len(lengths), longest)) < 0.3).astype(np.float32)
        p_mask[:, 0] = 0  # a row in which nothing can be an answer has ties only
        return {"p_mask": p_mask, "cls_index": np.array([rng.integers(0, length) for length in lengths])}
    return {}


def alone(other: Any, row: Row, i: int, further: dict[str, np.ndarray], with_choices: bool) -> Any:
    """transformers' answer for one row, unpadded."""
    ids = torch.tensor([row.input_ids])
    inputs = {"input_ids": ids, "langs": torch.full_like(ids, row.lang_id)}
    if with_choices:
        inputs = {key: value[None] for key, value in inputs.items()}
    if "p_mask" in further:
        inputs["p_mask"] = torch.from_numpy(further["p_mask"][i : i + 1, : len(row)])
        inputs["cls_index"] = torch.from_numpy(further["cls_index"][i : i + 1])
    with torch.no_grad():
        return other(**inputs)


def filled_up(model: BundleModel, filling: Filling) -> BundleModel:
    """The model, its packed batches with tokens and places that hold nothing."""
    session = open_session(model.bundle.folder / model.graph.file)
    model.session = PackedSession(session, model.graph.inputs, model.graph.outputs, model.config.summary_type, filling)
    return model


@pytest.mark.parametrize("filling", [None, Multiples(tokens=8, longest=16)], ids=["", "filled up"])
@pytest.mark.parametrize("name", NAMES)
def test_packed_is_padded_is_transformers_alone(name: str, filling: Filling | None, bundles: Bundles) -> None:
    task = name.removesuffix("-simple")
    padded, packed = open_model(bundles(name), task), open_model(bundles(f"{name}-packed"), task)
    assert packed.graph.layout == "packed"
    if filling is not None:
        packed = filled_up(packed, filling)
    architecture = padded.bundle.architecture
    other = getattr(transformers, architecture).from_pretrained(bundles(name).parent / "checkpoints" / name).eval()
    token_outputs = find_task(architecture, task).token_outputs
    rng = np.random.default_rng(7)
    drawn = [rng.integers(1, LONGEST + 1, rng.integers(1, 9)).tolist() for _ in range(3)]
    for lengths in (*MIXES, *drawn):
        rows, further = random_rows(lengths, padded, rng), further_inputs(name, lengths, rng)
        ours, theirs = packed.run(rows, further), padded.run(rows, further)
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            assert value.shape == theirs[key].shape
            assert value.dtype == theirs[key].dtype
        for i, row in enumerate(rows):
            if name == "question-answering" and len(row) < padded.config.start_n_top:
                expected = None  # transformers fails on a row with fewer tokens than starts
            else:
                expected = alone(other, row, i, further, "choice" in name)
            for key in ours:
                if "logit_positions" in further:
                    mine = further["logit_positions"] // max(lengths) == i
                    one, two = ours[key][mine], theirs[key][mine]
                    part: Any = further["logit_positions"][mine] % max(lengths)
                else:
                    part = slice(len(row)) if key in token_outputs else ...
                    one, two = ours[key][i][part], theirs[key][i][part]
                real = certain(key, theirs, i)
                np.testing.assert_allclose(one[real], two[real], rtol=RUNTIME_FP32, atol=RUNTIME_FP32, err_msg=key)
                if expected is not None:
                    want = getattr(expected, key)[0].numpy()[part]
                    np.testing.assert_allclose(one[real], want[real], rtol=RUNTIME_FP32, atol=RUNTIME_FP32, err_msg=key)


def certain(key: str, outputs: dict[str, np.ndarray], row: int) -> Any:
    """Which candidates of the beam to compare: those of probability 0 come in any order, what follows on them too."""
    if key not in ("start_top_index", "end_top_index", "end_top_log_probs"):
        return ...
    starts, ends = (outputs[name][row] > 1e-3 for name in ("start_top_log_probs", "end_top_log_probs"))
    if key == "start_top_index":
        return starts
    of_starts = np.tile(starts, ends.size // starts.size)
    return of_starts & ends if key == "end_top_index" else of_starts


CALLS: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "feature-extraction": ("feature-extraction", TEXTS, {"lang": LANGS, "pooling": "mean"}),
    "fill-mask": ("fill-mask", MASKED, {"top_k": 3}),
    "text-classification": ("text-classification", TEXTS, {"top_k": None, "lang": LANGS}),
    "multiple-choice": ("multiple-choice", TEXTS[:3], {"choices": ["Yes.", "The book was better.", "No, not at all."]}),
    "token-classification": ("token-classification", TEXTS, {"aggregation_strategy": "simple"}),
    "question-answering": ("question-answering", [], {"question": "Who lives there?", "context": " ".join(TEXTS)}),
    "question-answering-simple": (
        "question-answering",
        [],
        {"question": "Who lives there?", "context": " ".join(TEXTS)},
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_pipelines_answer_alike(name: str, bundles: Bundles) -> None:
    task, inputs, options = CALLS[name]
    for max_tokens in (40, 4096):
        answers = [
            pipeline(task, bundles(folder), max_tokens=max_tokens)(*([inputs] if inputs else []), **options)
            for folder in (name, f"{name}-packed")
        ]
        assert_alike(*answers)


def assert_alike(one: Any, two: Any) -> None:
    """The same answer: numbers within the limit, everything else equal."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_alike(one[key], two[key])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_alike(a, b)
    elif isinstance(one, float | np.ndarray):
        np.testing.assert_allclose(one, two, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
    else:
        assert one == two
