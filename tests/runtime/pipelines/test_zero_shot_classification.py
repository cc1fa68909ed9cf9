"""Labels that the model was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.reference import Reference, probabilities
from tests.runtime.texts import TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline

CANDIDATES = ["sea", "work", "film"]


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("zero-shot-classification", bundles("text-classification"))


@pytest.fixture(scope="module")
def reference(bundles: Bundles) -> Reference:
    return Reference(bundles("text-classification"))


def logits(reference: Reference, text: str, lang: str | None, template: str) -> np.ndarray:
    """(candidates, labels of the checkpoint)"""
    return np.stack(
        [reference.run(reference.ids(text, template.format(label), lang=lang), lang) for label in CANDIDATES]
    )


@pytest.mark.parametrize(("lang", "template"), [(None, "This example is {}."), ("de", "Es geht um {}.")])
def test_one_of_the_candidates(pipe, reference: Reference, lang, template) -> None:
    answers = pipe(TEXTS, CANDIDATES, lang=lang, hypothesis_template=template)
    for text, answer in zip(TEXTS, answers, strict=True):
        expected = probabilities(logits(reference, text, lang, template)[:, 1])
        order = np.argsort(-expected)
        assert answer["sequence"] == text
        assert answer["labels"] == [CANDIDATES[i] for i in order]
        np.testing.assert_allclose(answer["scores"], expected[order], atol=RUNTIME_FP32)


def test_several_may_hold(pipe, reference: Reference) -> None:
    answer = pipe(TEXTS[0], "sea, work,film", multi_label=True)
    expected = probabilities(logits(reference, TEXTS[0], None, "This example is {}.")[:, [0, 1]])[:, 1]
    assert answer["labels"] == [CANDIDATES[i] for i in np.argsort(-expected)]
    np.testing.assert_allclose(answer["scores"], sorted(expected, reverse=True), atol=RUNTIME_FP32)
    alone = pipe(TEXTS[0], ["sea"])
    np.testing.assert_allclose(alone["scores"], expected[:1], atol=RUNTIME_FP32)


def test_truncation_keeps_the_hypothesis(pipe, reference: Reference) -> None:
    text = "the old town " * 11
    template = f"{'the book was better than the film ' * 6} {{}}."
    answer = pipe(text, ["sea", "film"], hypothesis_template=template, truncation=True)
    first = reference.ids(text)[1:-1]
    logits = {}
    for label in ("sea", "film"):
        hypothesis = reference.ids(template.format(label))[1:-1]
        assert 64 - 3 - len(first) < len(first) < len(hypothesis)
        bos, sep = 0, 1
        cut = first[: 64 - 3 - len(hypothesis)]
        logits[label] = reference.run([bos, *cut, sep, *hypothesis, sep])[1]
    expected = probabilities(np.array([logits[label] for label in answer["labels"]]))
    np.testing.assert_allclose(answer["scores"], expected, atol=RUNTIME_FP32)


def test_bad_input(pipe, changed_bundle: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="candidate_labels is empty"):
        pipe(TEXTS[0], " , ")
    with pytest.raises(InputError, match=r"has no \{\} for the label"):
        pipe(TEXTS[0], CANDIDATES, hypothesis_template="This is it.")
    other = changed_bundle("text-classification", {"id2label": {"0": "bad", "1": "fair", "2": "good"}})
    with pytest.raises(InputError, match=r"label 'entailment'; the labels of .* are bad, fair, good"):
        pipeline("zero-shot-classification", other)
