"""Requests that are answered together: as the pipeline does, in one call, each with its own errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.runtime.answers import same
from xlm_runtime import pipeline
from xlm_runtime.errors import EngineError, InputError
from xlm_runtime.triton.requests import Answer, Request, answer_requests

TEXTS = ("The old town.", "Маяк стоит на берегу.", "Das Haus ist alt und steht am Meer.")


def asked(*texts: str, **parameters: Any) -> Request:
    return Request([text.encode() for text in texts], parameters)


def read(answer: Answer) -> list[Any]:
    assert isinstance(answer, list), answer
    return [json.loads(text) for text in answer]


class Counting:
    """A pipeline that notes its calls, and whose engine fails on long texts."""

    def __init__(self, pipe: Any, longest: int = 100) -> None:
        self.pipe, self.longest = pipe, longest
        self.calls: list[int] = []

    def __call__(self, inputs: list[Any], *, top_k: int = 1, lang: str | None = None, on_error: str = "raise") -> Any:
        self.calls.append(len(inputs))
        if any(len(text) > self.longest for text in inputs):
            raise EngineError("out of memory")
        return self.pipe(inputs, top_k=top_k, lang=lang, on_error=on_error)


def test_those_with_the_same_parameters_are_one_call(bundles: Bundles) -> None:
    pipe = pipeline("text-classification", bundles("text-classification"))
    counting = Counting(pipe)
    requests = [
        asked(TEXTS[0]),
        asked(TEXTS[1], top_k=2, lang="ru"),
        asked(*TEXTS),
        asked(TEXTS[2], lang="ru", top_k="2"),
        asked(TEXTS[0], lang="ru", top_k=2),
        asked(),
    ]
    answers = answer_requests(counting, requests)
    assert counting.calls == [4, 2, 1]  # a number in a string counts as other parameters
    same(read(answers[0]), [pipe(TEXTS[0])])
    same(read(answers[1]), [pipe(TEXTS[1], top_k=2, lang="ru")])
    same(read(answers[2]), pipe(list(TEXTS)))
    same(read(answers[3]), [pipe(TEXTS[2], top_k=2, lang="ru")])
    same(read(answers[4]), [pipe(TEXTS[0], top_k=2, lang="ru")])
    assert answers[5] == []


@pytest.mark.parametrize(
    ("task", "text", "given"),
    [
        ("fill-mask", "The <mask> town.", {"top_k": 2}),
        ("token-classification", '{"words": ["The", "old", "town"]}', {"aggregation_strategy": "simple"}),
        ("multiple-choice", '{"prompt": "The old", "choices": ["town", "sea"]}', {}),
        ("question-answering", '{"question": "Where?", "context": "The old town is by the sea."}', {"top_k": 2}),
        ("text-generation", "The old", {"max_new_tokens": 4, "do_sample": True, "seed": 3, "return_scores": True}),
        ("feature-extraction", "The old town.", {"pooling": "mean"}),
    ],
)
def test_answers_are_the_pipelines(bundles: Bundles, task: str, text: str, given: dict[str, Any]) -> None:
    pipe = pipeline(task, bundles(task))
    (answer,) = answer_requests(pipe, [asked(text, **given)])
    options = {"options": pipe.defaults.replace(**given)} if task == "text-generation" else given
    same(read(answer), [pipe(json.loads(text) if text.startswith("{") else text, **options)])


def test_an_error_stays_with_its_request(bundles: Bundles) -> None:
    pipe = pipeline("text-classification", bundles("text-classification"))
    answers = answer_requests(
        pipe,
        [
            asked(TEXTS[0]),
            asked(TEXTS[0], " "),
            asked(""),
            Request([b"\xff"], {}),
            asked('{"text": '),
            asked('{"a": ' * 100_000),
            asked('{"texts": "a"}'),
            asked(TEXTS[0], top_k=0),
            asked(TEXTS[0], on_error="skip"),
            asked(TEXTS[0], " ", '{"text": "{"}', on_error="return"),
        ],
    )
    same(read(answers[0]), [pipe(TEXTS[0])])
    messages = [str(answer) for answer in answers[1:-1] if isinstance(answer, InputError)]
    assert [message[:45] for message in messages] == [
        "item 2: The text is empty; give at least one ",
        "The text is empty; give at least one word.",
        "not UTF-8 (invalid start byte at byte 0).",
        "not a JSON object: Expecting value: line 1 co",
        "not a JSON object: it is nested too deeply. (",
        "Unknown key 'texts' in an input; a dictionary",
        "top_k is 0; expected a positive number, or No",
        "Unknown on_error 'skip'; expected one of rais",
    ]
    first, failed, third = read(answers[-1])
    same([first, third], pipe([TEXTS[0], "{"]))
    assert failed == {
        "error": {"item": 2, "type": "InputError", "message": "The text is empty; give at least one word."}
    }


def test_a_request_that_an_engine_fails_on_takes_no_other_along(bundles: Bundles) -> None:
    pipe = pipeline("text-classification", bundles("text-classification"))
    counting = Counting(pipe, longest=30)
    answers = answer_requests(counting, [asked(text) for text in TEXTS])
    assert counting.calls == [3, 1, 1, 1]
    same([read(answer)[0] for answer in answers[:2]], pipe(list(TEXTS[:2])))
    assert isinstance(answers[2], EngineError)
