"""Pipelines on a session that only starts what it is given, as a GPU does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.texts import TEXTS
from xlm_runtime import FailedItem, InputError, pipeline
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.sessions import Array, Session


class StartedSession:
    """Runs what was started when it is waited for, and says when."""

    def __init__(self, session: Session, events: list[str]) -> None:
        self.input_names, self.output_names = session.input_names, session.output_names
        self._session = session
        self._events = events

    def start(self, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        self._events.append("start")

        def wait() -> dict[str, Array]:
            self._events.append("wait")
            return self._session.run(inputs)

        return wait

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return self.start(inputs)()


def open_started(task: str, bundles: Bundles, events: list[str]) -> Any:
    pipe = pipeline(task, bundles(PIPELINES[task].bundle_task), max_tokens=64)
    pipe.model.session = StartedSession(pipe.model.session, events)
    pipe.batching = replace(pipe.batching, overlapped=True, window_rows=4)
    return pipe


@pytest.mark.parametrize(
    ("task", "ask"),
    [
        ("text-classification", lambda pipe, texts: pipe(texts, top_k=None)),
        ("feature-extraction", lambda pipe, texts: pipe(texts, stride=2, max_length=9)),
        ("fill-mask", lambda pipe, texts: pipe([f"{text} <mask>" for text in texts])),
        ("token-classification", lambda pipe, texts: pipe(texts, stride=2, max_length=9)),
        ("multiple-choice", lambda pipe, texts: pipe(texts, ["a town", "a film", "the old sea"])),
        ("question-answering", lambda pipe, texts: pipe(texts, context=" ".join(TEXTS), max_seq_len=40)),
        ("zero-shot-classification", lambda pipe, texts: pipe(texts, ["film", "sea"])),
    ],
)
def test_answers_are_those_of_one_batch_after_the_other(
    bundles: Bundles, task: str, ask: Callable[[Any, list[str]], Any]
) -> None:
    events: list[str] = []
    answers = ask(open_started(task, bundles, events), TEXTS * 2)
    expected = ask(pipeline(task, bundles(PIPELINES[task].bundle_task), max_tokens=64), TEXTS * 2)
    assert events[:3] == ["start", "start", "wait"]
    assert len(answers) == len(expected)
    for answer, other in zip(answers, expected, strict=True):
        if isinstance(answer, np.ndarray):
            np.testing.assert_allclose(answer, other, atol=1e-5)
        else:
            assert numbers_rounded(answer) == numbers_rounded(other)


def numbers_rounded(answer: Any) -> Any:
    if isinstance(answer, Mapping):
        return {key: numbers_rounded(value) for key, value in answer.items()}
    if isinstance(answer, list):
        return [numbers_rounded(value) for value in answer]
    return pytest.approx(answer, abs=1e-5) if isinstance(answer, float) else answer


def test_items_that_cannot_be_used_keep_their_place(bundles: Bundles) -> None:
    pipe = open_started("text-classification", bundles, [])
    items = ["Good!" if number % 5 else "" for number in range(1, 18)]
    answers = list(pipe(iter(items), on_error="return"))
    assert [isinstance(answer, FailedItem) for answer in answers] == [not item for item in items]
    assert list(pipe(items, on_error="skip")) == [answer for answer in answers if isinstance(answer, Mapping)]
    stream = pipe(iter(items))
    assert [next(stream) for _ in range(4)] == answers[:4]
    with pytest.raises(InputError, match="item 5: The text is empty"):
        next(stream)


def test_a_stream_reads_while_the_device_computes(bundles: Bundles) -> None:
    events: list[str] = []
    pipe = open_started("text-classification", bundles, events)

    def source() -> Iterator[str]:
        for _ in range(100):
            events.append("read")
            yield "Good!"

    threads = threading.active_count()
    answers = pipe(source())
    assert events == []
    next(answers)
    assert events == [*["read"] * 4, "start", *["read"] * 4, "start", "wait"]
    answers.close()
    assert events.count("read") == 8
    assert threading.active_count() <= threads, "one that opened the pipeline may be done"


def test_threads_share_a_pipeline(bundles: Bundles) -> None:
    pipe = open_started("text-classification", bundles, [])
    expected = pipe(TEXTS * 3)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(pipe, [TEXTS * 3] * 8)) == [expected] * 8
