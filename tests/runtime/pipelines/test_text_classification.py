"""Labels of texts and pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.reference import Reference, probabilities
from tests.runtime.texts import LANGS, TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline

LABELS = ["contradiction", "entailment", "neutral"]


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("text-classification", bundles("text-classification"))


@pytest.fixture(scope="module")
def reference(bundles: Bundles) -> Reference:
    return Reference(bundles("text-classification"))


def scores_by_label(answer) -> list[float]:
    by_label = {item["label"]: item["score"] for item in answer}
    return [by_label[label] for label in LABELS]


def test_scores_of_every_label(pipe, reference: Reference) -> None:
    for text, lang, answer in zip(TEXTS, LANGS, pipe(TEXTS, lang=LANGS, top_k=None), strict=True):
        expected = probabilities(reference.run(reference.ids(text, lang=lang), lang))
        np.testing.assert_allclose(scores_by_label(answer), expected, atol=RUNTIME_FP32)
        assert answer == sorted(answer, key=lambda item: -item["score"])
        assert pipe(text, lang=lang)["label"] == answer[0]["label"]


def test_pairs(pipe, reference: Reference) -> None:
    pairs = [{"text": TEXTS[0], "text_pair": TEXTS[3]}, {"text": TEXTS[2], "text_pair": TEXTS[4], "lang": "fr"}]
    for pair, answer in zip(pairs, pipe(pairs, top_k=None), strict=True):
        lang = pair.get("lang")
        expected = probabilities(reference.run(reference.ids(pair["text"], pair["text_pair"], lang=lang), lang))
        np.testing.assert_allclose(scores_by_label(answer), expected, atol=RUNTIME_FP32)


def test_functions(pipe, reference: Reference) -> None:
    logits = reference.run(reference.ids(TEXTS[0]))
    for function, expected in (
        ("none", logits),
        ("sigmoid", 1 / (1 + np.exp(-logits))),
        ("softmax", probabilities(logits)),
    ):
        answer = pipe(TEXTS[0], top_k=None, function_to_apply=function)
        np.testing.assert_allclose(scores_by_label(answer), expected, atol=RUNTIME_FP32)
    with pytest.raises(InputError, match="Unknown function_to_apply 'log'"):
        pipe(TEXTS[0], function_to_apply="log")


@pytest.mark.parametrize(
    ("problem_type", "function"), [("multi_label_classification", "sigmoid"), ("regression", "none")]
)
def test_the_problem_type_decides_the_function(
    pipe, changed_bundle: Callable[..., Path], problem_type: str, function: str
) -> None:
    other = pipeline("text-classification", changed_bundle("text-classification", {"problem_type": problem_type}))
    assert other(TEXTS[0], top_k=2) == pipe(TEXTS[0], top_k=2, function_to_apply=function)
