"""Parameters of requests: what each task has, values as JSON and in strings, and what is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_runtime import pipeline
from xlm_runtime.errors import InputError
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.wire.parameters import call_arguments


@pytest.mark.parametrize(
    ("task", "given", "expected"),
    [
        ("text-classification", {"top_k": 2, "truncation": True}, {"top_k": 2, "truncation": True}),
        ("text-classification", {"top_k": "null", "max_length": "12"}, {"top_k": None, "max_length": 12}),
        ("text-classification", {"lang": '["de"]'}, {"lang": '["de"]'}),  # one for all, and not known
        ("fill-mask", {"targets": "3"}, {"targets": "3"}),
        ("fill-mask", {"targets": '["a", "3"]'}, {"targets": ("a", "3")}),
        ("token-classification", {"ignore_labels": "[]", "stride": 8}, {"ignore_labels": (), "stride": 8}),
        ("zero-shot-classification", {"candidate_labels": "a, b"}, {"candidate_labels": "a, b"}),
        ("multiple-choice", {"choices": '["a", "b"]'}, {"choices": ("a", "b")}),
        ("question-answering", {"context": "[1] and [2]"}, {"context": "[1] and [2]"}),
        ("question-answering", {"null_score_diff_threshold": 1}, {"null_score_diff_threshold": 1}),
    ],
)
def test_values(bundles: Bundles, task: str, given: dict[str, Any], expected: dict[str, Any]) -> None:
    pipe = pipeline(task, bundles(PIPELINES[task].bundle_task))
    assert call_arguments(pipe, given) == expected


def test_generation_options_stand_beside_the_others(bundles: Bundles) -> None:
    pipe = pipeline("text-generation", bundles("text-generation"))
    given = {"max_new_tokens": 3, "do_sample": True, "temperature": "0.5", "bad_words_ids": "[[5, 6]]", "lang": "en"}
    options = pipe.defaults.replace(max_new_tokens=3, do_sample=True, temperature=0.5, bad_words_ids=((5, 6),))
    assert call_arguments(pipe, given) == {"lang": "en", "options": options}
    assert call_arguments(pipe, {}) == {"options": pipe.defaults}
    with pytest.raises(InputError, match="temperature only matter when tokens are drawn"):
        call_arguments(pipe, {"temperature": 0.5})


@pytest.mark.parametrize(
    ("task", "given", "message"),
    [
        ("text-classification", {"topk": 1}, "Unknown parameter 'topk'; this model has function_to_apply, lang, "),
        ("text-classification", {"inputs": "x"}, "Unknown parameter 'inputs'"),
        ("text-classification", {"top_k": True}, "The parameter top_k is True; expected a whole number or null."),
        ("text-classification", {"top_k": "three"}, "The parameter top_k is 'three'; expected a whole number or null."),
        ("text-classification", {"truncation": "yes"}, "The parameter truncation is 'yes'; expected true or false."),
        ("fill-mask", {"targets": 1}, "The parameter targets is 1; expected a string or a list or null."),
        ("zero-shot-classification", {}, "The parameter candidate_labels is missing"),
        ("text-generation", {"options": "{}"}, "Unknown parameter 'options'"),
        ("text-generation", {"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number, 1 or more."),
    ],
)
def test_what_is_refused(bundles: Bundles, task: str, given: dict[str, Any], message: str) -> None:
    pipe = pipeline(task, bundles(PIPELINES[task].bundle_task))
    with pytest.raises(InputError, match=re.escape(message)):
        call_arguments(pipe, given)
