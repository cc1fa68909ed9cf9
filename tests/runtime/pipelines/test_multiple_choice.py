"""Which choice fits a prompt."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.reference import Reference, probabilities
from tests.runtime.texts import TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline

CHOICES = ["It was better than the film.", "Nobody came.", "Маяк"]


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("multiple-choice", bundles("multiple-choice"))


@pytest.fixture(scope="module")
def reference(bundles: Bundles) -> Reference:
    return Reference(bundles("multiple-choice"))


def check(reference: Reference, answer, prompt: str, choices: list[str], lang: str | None = None) -> None:
    logits = [reference.run(reference.ids(prompt, choice, lang=lang), lang)[0] for choice in choices]
    expected = probabilities(np.array(logits))
    np.testing.assert_allclose(answer["scores"], expected, atol=RUNTIME_FP32)
    assert answer["index"] == expected.argmax()
    assert answer["choice"] == choices[expected.argmax()]
    assert answer["score"] == answer["scores"][answer["index"]]


def test_one_prompt(pipe, reference: Reference) -> None:
    check(reference, pipe(TEXTS[5], CHOICES), TEXTS[5], CHOICES)
    check(reference, pipe(TEXTS[5], CHOICES, lang="de"), TEXTS[5], CHOICES, "de")


def test_many_prompts_with_their_own_choices(pipe, reference: Reference) -> None:
    prompts = [
        {"prompt": TEXTS[0], "choices": CHOICES[:2]},
        TEXTS[1],
        {"prompt": TEXTS[2], "choices": [*CHOICES, TEXTS[3]], "lang": "fr"},
    ]
    answers = pipe(prompts, CHOICES)
    check(reference, answers[0], TEXTS[0], CHOICES[:2])
    check(reference, answers[1], TEXTS[1], CHOICES)
    check(reference, answers[2], TEXTS[2], [*CHOICES, TEXTS[3]], "fr")


def test_bad_input(pipe) -> None:
    for choices in (None, ["one"], "a string"):
        with pytest.raises(InputError, match="needs a list of two or more choices"):
            pipe(TEXTS[0], choices)
    with pytest.raises(InputError, match="must be strings"):
        pipe(TEXTS[0], ["a", 1])
    with pytest.raises(InputError, match="'prompt' is missing"):
        pipe({"choices": CHOICES})
