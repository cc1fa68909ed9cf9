"""The contenders themselves: bounds compute what they say, and all of them give transformers' logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.contenders import bare_products, graph_model, ours, torch_model, torch_packed, transformers_model
from benchmarks.workloads import ALL_LOGITS, AT_MASK, Row, Workload, fixed, mixed, plan
from xlm_runtime.config import XLMConfig

Bundles = Callable[[str], Path]


@pytest.mark.parametrize("precision", ["fp32", "integer", "qdq"])
def test_graphs_of_bare_products_against_numpy(precision: str) -> None:
    """The numbers that are kept are those of the products, one of each."""
    shapes = 2 * bare_products.layer_shapes(8)
    model = bare_products.products_graph(shapes, precision)
    feed = bare_products.feeds(shapes, np.uint8 if precision == "integer" else np.float32)(5)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    rng = np.random.default_rng(0)
    weights = [rng.integers(-127, 128, shape, np.int8) for shape in shapes]
    scale = {"fp32": 1 / 1000, "integer": 1, "qdq": 0.01}[precision]
    expected = [weight[:, 0].astype(np.int64).sum() * scale for weight in weights]  # inputs are ones
    assert found[:, 0] == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("precision", "engine"), [(p, name) for p, engines in bare_products.ENGINES.items() for name in engines]
)
def test_every_engine_of_bare_products_takes_any_number_of_tokens(precision: str, engine: str) -> None:
    products = bare_products.ENGINES[precision][engine](bare_products.layer_shapes(32), 1)
    for tokens in (1, 17, 512):
        products(tokens)


def test_bare_products_compute_each_token_and_mask_once() -> None:
    model = bare_products.BareProducts({"precision": "fp32", "layers": 1, "dim": 16, "vocab": 40}, 1)
    body: list[int] = []
    head: list[int] = []
    model.engines, model.projection = {"one": body.append}, head.append
    model.seconds = {("one", size): float(size) if size <= 512 else 1e6 for size in bare_products.SIZES}
    model.answer_all([Row([1] * 100, 0, 3)] * 11)
    assert sum(body) == 1100
    assert max(body) <= 512
    assert head == [11]
    model.answer_all([Row([1] * 3)])
    assert (body[-1], head) == (3, [11])


def test_bare_products_go_to_the_engine_that_is_fastest_at_their_size() -> None:
    model = bare_products.BareProducts({"precision": "fp32", "layers": 1, "dim": 16, "vocab": 0}, 1)
    small: list[int] = []
    large: list[int] = []
    model.engines = {"small": small.append, "large": large.append}
    model.seconds = {("small", size): 1.0 * size for size in bare_products.SIZES}
    model.seconds |= {("large", size): 100 + 0.5 * size for size in bare_products.SIZES}
    model.answer_all([Row([1] * 64)])
    model.answer_all([Row([1] * 2048)])
    assert sum(small) == 64
    assert large == [2048]


def test_weights_are_those_of_a_layer() -> None:
    assert sum(into * out for into, out in bare_products.layer_shapes(10)) == 12 * 10**2


def check_logits(bundle: Path, checkpoint: Path, task: str) -> None:
    config = XLMConfig.from_pretrained(bundle)
    workload = Workload("w", "", mixed if task == "text-classification" else fixed(4, 20), task=task)
    rows = workload.draw(np.random.default_rng(0), config.vocab_size, config.n_langs)[0]
    rows = [Row(row.input_ids[-64:], row.lang_id, row.mask) for row in rows]
    options = {"checkpoint": str(checkpoint), "task": task, "precision": "fp32", "compile": False, "device": "cpu",
               "inputs": "all"}  # fmt: skip
    exact = transformers_model.open_model(options, 1)
    # without padding: Hugging Face's answer to a sequence is that to the sequence alone
    expected = np.concatenate([exact.answer([row], False) for row in rows])
    file = str(bundle / "model.onnx")
    contenders = {
        "transformers, padded": exact,
        "onnxruntime": graph_model.open_model({"file": file, "engine": "onnxruntime", "precision": "f32"}, 1),
        "openvino": graph_model.open_model({"file": file, "engine": "openvino", "precision": "f32"}, 1),
        "ours": ours.open_model({"bundle": str(bundle), "task": task, "provider": "cpu"}, 1),
    }
    if task == "text-classification":
        contenders["torch"] = torch_model.open_model({**options, "compile": None}, 1)
        contenders |= {
            f"torch packed, graphs {graphs}": torch_packed.open_model({**options, "graphs": graphs}, 1)
            for graphs in (False, True)
        }
    for name, model in contenders.items():
        for every in (False, True) if task == "fill-mask" else (False,):
            found = np.empty_like(expected)
            for batch in plan(ALL_LOGITS if every else AT_MASK, [len(row) for row in rows], 3):
                found[batch] = model.answer([rows[i] for i in batch], every)
            assert np.abs(found - expected).max() < 1e-4, (name, every)
    assert np.abs(np.array(contenders["ours"].answer_all(rows)) - expected).max() < 1e-4


@pytest.mark.slow
def test_contenders_give_transformers_logits_of_a_classifier(bundles: Bundles) -> None:
    folder = bundles("text-classification")
    check_logits(folder, folder.parent / "checkpoints" / "text-classification", "text-classification")


def test_a_captured_batch_answers_what_it_is_asked(bundles: Bundles) -> None:
    """A shape that was captured is answered from its buffers, with the rows of this call and in their languages."""
    checkpoint = bundles("text-classification").parent / "checkpoints" / "text-classification"
    options = {"checkpoint": str(checkpoint), "precision": "fp32", "compile": False, "device": "cpu"}
    exact, captured = (torch_packed.open_model({**options, "graphs": graphs}, 1) for graphs in (False, True))
    config = XLMConfig.from_pretrained(checkpoint)
    lengths = ([3, 9, 4], [9, 4, 3], [9, 3, 4], [16])  # the first three have one shape
    rng = np.random.default_rng(0)
    draws = [Workload("w", "", lambda _, n=n: [n]).draw(rng, config.vocab_size, config.n_langs)[0] for n in lengths]
    found = [captured.answer(rows, False) for rows in draws]
    for rows, answer in zip(draws, found, strict=True):
        np.testing.assert_allclose(answer, exact.answer(rows, False), atol=1e-6)
    texts = [" ".join("ab" for _ in range(1 + n % 9)) for n in range(40)]  # more than go in one batch
    assert captured.answer_texts(texts) == exact.answer_texts(texts)
    assert len(exact.answer_texts(texts)) == 40


@pytest.mark.slow
def test_contenders_give_transformers_logits_of_masks(bundles: Bundles) -> None:
    folder = bundles("fill-mask")
    check_logits(folder, folder.parent / "checkpoints" / "fill-mask", "fill-mask")


@pytest.mark.slow
def test_generation_of_torch_and_the_runtime_agree(bundles: Bundles) -> None:
    folder = bundles("text-generation")
    checkpoint = folder.parent / "checkpoints" / "text-generation"
    prompts = [[1, 20, 30, 40], [1, 50, 60, 70]]
    options = {"checkpoint": str(checkpoint), "task": "text-generation", "precision": "fp32", "compile": None,
               "device": "cpu"}  # fmt: skip
    expected = torch_model.open_model(options, 1).generate(prompts, 6)
    model = ours.open_model({"bundle": str(folder), "task": "text-generation", "provider": "cpu"}, 1)
    assert model.generate(prompts, 6) == expected
    assert all(len(ids) == 6 for ids in expected)
