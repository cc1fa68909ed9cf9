"""Concurrent callers of one pipeline: threads, event loops, and what becomes of them when it is closed."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.texts import LANGS, TEXTS, TOO_LONG
from xlm_runtime import EngineError, FailedItem, GenerationOptions, InputError, OverloadedError, pipeline
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.sessions import Array, Session

TASK = "text-classification"
SECONDS = 60
"""Nothing takes so long unless it hangs."""

ARGUMENTS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "feature-extraction": ([TEXTS], {"pooling": "mean"}),
    "fill-mask": ([[f"{text} <mask>" for text in TEXTS]], {"targets": ["old", "town"]}),
    "text-generation": ([TEXTS[:3], GenerationOptions(max_new_tokens=4, do_sample=True, seed=1)], {}),
    "text-classification": ([TEXTS], {"top_k": None, "lang": LANGS}),
    "zero-shot-classification": ([TEXTS, ["film", "sea"]], {"multi_label": True}),
    "multiple-choice": ([TEXTS], {"choices": ["a town", "a film"]}),
    "token-classification": ([TEXTS], {"stride": 2, "max_length": 9}),
    "question-answering": ([TEXTS[:3]], {"context": " ".join(TEXTS), "max_seq_len": 40, "top_k": 2}),
}


class BusySession:
    """Logs how many rows it computes at once, and begins when the test lets it."""

    def __init__(self, session: Session) -> None:
        self.input_names, self.output_names = session.input_names, session.output_names
        self.rows: list[int] = []
        self._session = session
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._begun = threading.Semaphore(0)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self.rows.append(len(inputs["input_ids"]))
        self._begun.release()
        assert self._goes_on.wait(SECONDS)
        return self._session.run(inputs)

    @contextmanager
    def busy(self, pipe: Any) -> Iterator[Any]:
        """While a first text is computed. Its future."""
        self._goes_on.clear()
        first = pipe.submit("Good!")
        assert self._begun.acquire(timeout=SECONDS)
        try:
            yield first
        finally:
            self._goes_on.set()


@pytest.fixture
def pipe(bundles: Bundles) -> Iterator[Any]:
    with pipeline(TASK, bundles(TASK)) as opened:
        opened.model.session = BusySession(opened.model.session)
        yield opened


@pytest.mark.parametrize("task", PIPELINES)
def test_what_is_submitted_is_answered_as_a_call_is(task: str, bundles: Bundles) -> None:
    """Bit for bit where it is alone."""
    (given, *others), options = ARGUMENTS[task]
    alone = {name: value for name, value in options.items() if name != "lang"}
    with pipeline(task, bundles(PIPELINES[task].bundle_task)) as pipe:
        for inputs, kept in ((given, options), (given[0], alone)):
            found = pipe.submit(inputs, *others, **kept).result(SECONDS)
            np.testing.assert_equal(found, pipe(inputs, *others, **kept))


def test_concurrent_callers_share_batches(pipe: Any) -> None:
    with pipe.model.session.busy(pipe) as first:
        with ThreadPoolExecutor(4) as callers:
            futures = list(callers.map(lambda text: pipe.submit(text, lang="de"), TEXTS))
        other = pipe.submit(TEXTS, top_k=2)
    answers = [future.result(SECONDS) for future in futures]
    assert len(other.result(SECONDS)) == len(TEXTS)
    assert pipe.model.session.rows == [1, len(TEXTS), len(TEXTS)]
    assert first.result(SECONDS) == pipe("Good!")
    for answer, text in zip(answers, TEXTS, strict=True):
        expected = pipe(text, lang="de")
        assert answer["label"] == expected["label"]
        assert answer["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_an_input_that_cannot_be_used_is_an_error_of_its_request(pipe: Any) -> None:
    session = pipe.model.session
    with session.busy(pipe):
        good = pipe.submit("Good!")
        bad = [pipe.submit(""), pipe.submit(["Good!", TOO_LONG]), pipe.submit("Good!", lang="xx")]
        listed = pipe.submit(["", "Good!"], on_error="return")
        skipped = pipe.submit(["", "Good!"], on_error="skip")
        nothing = [pipe.submit("", on_error="return"), pipe.submit([]), pipe.submit([""], on_error="skip")]
        assert nothing[0].result(0).message == "The text is empty; give at least one word."
        assert [future.result(0) for future in nothing[1:]] == [[], []]
    for future, message in zip(bad, ("The text is empty", "item 2: The text", "Unknown lang 'xx'"), strict=True):
        with pytest.raises(InputError, match=message):
            future.result(SECONDS)
    answer = good.result(SECONDS)
    failed, answered = listed.result(SECONDS)
    assert isinstance(failed, FailedItem)
    assert failed.item == 1
    assert [each["label"] for each in (answered, *skipped.result(SECONDS))] == [answer["label"]] * 2
    assert session.rows == [1, 3]


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (iter(TEXTS), {}, "A list_iterator was submitted; expected one input or a list"),
        (TEXTS, {"lang": ["de"]}, "7 texts were given with 1 languages"),
        ("Good!", {"lang": ["de"]}, "One text was given with a list of languages"),
        ("Good!", {"on_error": "skip"}, "on_error='skip' leaves out some of many inputs"),
        ("Good!", {"on_error": "ignore"}, "Unknown on_error 'ignore'"),
        ("Good!", {"top_k": 0}, "top_k is 0"),
    ],
)
def test_what_cannot_be_submitted(pipe: Any, inputs: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.submit(inputs, **options).result(0)


def test_an_unknown_option_is_told_at_once(pipe: Any) -> None:
    with pytest.raises(TypeError, match="topk"):
        pipe.submit("Good!", topk=2)


def test_a_full_queue_refuses(pipe: Any) -> None:
    pipe.batching = replace(pipe.batching, max_queue=1)
    with pipe.model.session.busy(pipe):
        waiting = pipe.submit("Good!")
        with pytest.raises(OverloadedError, match="ask again later"):
            pipe.submit("Good!")
    assert waiting.result(SECONDS) == pipe("Good!")


def test_event_loops_share_a_pipeline(bundles: Bundles) -> None:
    async def ask_all() -> list[Any]:
        return await asyncio.gather(*(pipe.answer_async(text, top_k=2) for text in TEXTS))

    with pipeline(TASK, bundles(TASK)) as pipe:
        expected = [[label["label"] for label in pipe(text, top_k=2)] for text in TEXTS]
        with ThreadPoolExecutor(3) as loops:
            found = list(loops.map(lambda _: asyncio.run(ask_all()), range(6)))
        assert [[[label["label"] for label in labels] for labels in answers] for answers in found] == [expected] * 6
        with pytest.raises(InputError, match="The text is empty"):
            asyncio.run(pipe.answer_async(""))


def test_cancelling_a_task_cancels_its_request(pipe: Any) -> None:
    session = pipe.model.session

    async def ask() -> Any:
        with session.busy(pipe):
            task, other = (asyncio.ensure_future(pipe.answer_async(text)) for text in ("Good!", "The old town"))
            await asyncio.sleep(0)  # both are submitted
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return await other

    assert asyncio.run(ask()) == pipe("The old town")
    assert session.rows[:2] == [1, 1]


CALLS: dict[str, Callable[[Any], Any]] = {
    "call": lambda pipe: pipe("Good!"),
    "list": lambda pipe: pipe([]),
    "stream": lambda pipe: next(pipe(iter(TEXTS))),
    "submit": lambda pipe: pipe.submit("Good!"),
    "await": lambda pipe: asyncio.run(pipe.answer_async("Good!")),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_pipeline_refuses(call: str, bundles: Bundles) -> None:
    with pipeline(TASK, bundles(TASK)) as pipe:
        assert pipe.submit("Good!").result(SECONDS) == pipe("Good!")
    with pytest.raises(EngineError, match=r"was closed; open the bundle again"):
        CALLS[call](pipe)
    pipe.close()


@pytest.mark.parametrize("task", ["text-generation", "question-answering"])
def test_no_other_way_leads_to_a_closed_session(task: str, bundles: Bundles) -> None:
    pipe = pipeline(task, bundles(task))
    pipe.close()
    calls = {
        "text-generation": [lambda: list(pipe.stream("Good!")), lambda: pipe.score("Good!")],
        "question-answering": [lambda: pipe(question="Who?", context="Anna.")],
    }
    for call in calls[task]:
        with pytest.raises(EngineError, match="was closed"):
            call()


def test_closing_refuses_what_waits_and_lets_the_session_go(bundles: Bundles) -> None:
    pipe = pipeline(TASK, bundles(TASK))
    expected = pipe("Good!")
    held = weakref.ref(pipe.model.session)
    session = pipe.model.session = BusySession(pipe.model.session)
    with session.busy(pipe) as first:
        waiting = pipe.submit("Good!")
        closing = threading.Thread(target=pipe.close)
        closing.start()
    closing.join(SECONDS)
    assert first.result(SECONDS) == expected
    # the worker may have taken it before it was closed
    assert isinstance(waiting.exception(SECONDS), EngineError) or waiting.result(0) == expected
    del session
    gc.collect()
    assert held() is None


def test_nothing_is_left_of_a_pipeline_that_nobody_holds(bundles: Bundles) -> None:
    before = set(threading.enumerate())
    pipe = pipeline(TASK, bundles(TASK))
    future = pipe.submit("Good!")
    assert future.result(SECONDS) == pipe("Good!")
    held = weakref.ref(pipe)
    started = [thread for thread in set(threading.enumerate()) - before if thread.name == "xlm-batcher"]
    del pipe
    gc.collect()
    for thread in started:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert len(started) == 1
    assert held() is None


def test_a_request_keeps_its_pipeline(bundles: Bundles) -> None:
    assert pipeline(TASK, bundles(TASK)).submit("Good!").result(SECONDS) == pipeline(TASK, bundles(TASK))("Good!")
