"""The batcher alone, on an engine that logs its batches and holds them up as long as a test wants."""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xlm_runtime.errors import BundleError, EngineError, InputError, OverloadedError
from xlm_runtime.model.batcher import Batcher, BatchReport, Request
from xlm_runtime.model.batching import PACKED_PLACES, BatchOptions

# a batch of four rows of one token
OPTIONS = BatchOptions(max_tokens=4)
SECONDS = 60
"""Nothing takes so long unless it hangs."""

Rows = list[list[int]]


class Engine:
    """Gives for each row, a list of numbers, their sum. A row with a number of `failing` is one that it fails at."""

    def __init__(self, failing: dict[int, Exception] | None = None) -> None:
        self.batches: list[Rows] = []
        self.reports: list[BatchReport] = []
        self._failing = failing or {}
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._begun = threading.Semaphore(0)

    def forward(self, batch: Rows) -> Callable[[], list[int]]:
        self.batches.append(batch)
        self._begun.release()
        assert self._goes_on.wait(SECONDS)
        for row in batch:
            for number in row:
                if number in self._failing:
                    raise self._failing[number]
        return lambda: [sum(row) for row in batch]

    def request(self, *rows: list[int], alike: object = None, options: BatchOptions = OPTIONS) -> Request:
        """One whose result is the sum of each row."""
        groups = [[row] for row in rows]
        return Request(groups, self.forward, _number, list, alike=alike, batching=options, observe=self.reports.append)

    @contextmanager
    def busy(self, batcher: Batcher) -> Iterator[Future[Any]]:
        """While a first request is computed. Its future."""
        self._goes_on.clear()
        first = batcher.submit(self.request([1000]))
        assert self._begun.acquire(timeout=SECONDS)
        try:
            yield first
        finally:
            self._goes_on.set()


def _number(rows: Sequence[list[int]], outputs: Sequence[int]) -> int:
    if outputs[0] < 0:
        raise ArithmeticError(f"{outputs[0]}")
    return outputs[0]


@pytest.fixture
def batcher() -> Iterator[Batcher]:
    batcher = Batcher()
    yield batcher
    batcher.close()


def result(future: Future[Any]) -> Any:
    return future.result(SECONDS)


def threads() -> set[threading.Thread]:
    return set(threading.enumerate())


def test_who_asks_while_a_batch_is_computed_is_in_the_next(batcher: Batcher) -> None:
    engine = Engine()
    with engine.busy(batcher) as first:
        with ThreadPoolExecutor(3) as callers:
            futures = list(callers.map(lambda number: batcher.submit(engine.request([number])), range(3)))
        assert not any(future.running() for future in futures)
    assert result(first) == [1000]
    assert [result(future) for future in futures] == [[0], [1], [2]]
    assert [sorted(batch) for batch in engine.batches] == [[[1000]], [[0], [1], [2]]]


def test_a_lone_caller_waits_for_nobody(batcher: Batcher) -> None:
    engine = Engine()
    assert [result(batcher.submit(engine.request([number]))) for number in range(3)] == [[0], [1], [2]]
    assert engine.batches == [[[0]], [[1]], [[2]]]


def test_requests_come_in_their_order_and_options_keep_apart(batcher: Batcher) -> None:
    engine = Engine()
    with engine.busy(batcher):
        for number in range(6):
            batcher.submit(engine.request([number], alike="even" if number % 2 == 0 else "odd"))
        last = batcher.submit(engine.request([6, 7, 8, 9], alike="odd"))
    assert result(last) == [30]
    assert engine.batches[1:] == [[[0], [2], [4]], [[1], [3], [5]], [[6, 7, 8, 9]]]


def test_a_request_of_very_many_rows_lets_others_in_between(batcher: Batcher) -> None:
    engine = Engine()
    with engine.busy(batcher):
        large = batcher.submit(engine.request(*([number] for number in range(9))))
        small = batcher.submit(engine.request([20]))
    assert result(large) == list(range(9))
    assert result(small) == [20]
    assert engine.batches[1:] == [[[0], [1], [2], [3]], [[20], [4], [5], [6]], [[7], [8]]]


def test_each_batch_is_reported(batcher: Batcher) -> None:
    engine = Engine()
    with engine.busy(batcher):
        futures = [batcher.submit(engine.request(*rows)) for rows in ([[1, 2], [3], [4], [5], [6]], [[7]])]
        batcher.submit(engine.request([8])).cancel()
    assert [result(future) for future in futures] == [[3, 3, 4, 5, 6], [7]]
    assert [(report.rows, report.tokens, len(report.waited)) for report in engine.reports] == [
        (1, 1, 1),
        (2, 3, 1),
        (4, 4, 1),
    ]
    assert all(seconds >= 0 for report in engine.reports for seconds in report.waited)


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=4)
requests = st.lists(st.tuples(lengths, st.sampled_from("ab")), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(requests, st.integers(1, 30), st.integers(1, 9), st.booleans())
def test_batches_keep_to_the_budget_and_answers_to_their_requests(
    asked: list[tuple[list[int], str]], budget: int, window: int, packed: bool
) -> None:
    engine, batcher = Engine(), Batcher()
    options = BatchOptions(budget, window_rows=window, packed=packed)
    futures = []
    with engine.busy(batcher):
        for number, (sizes, alike) in enumerate(asked):
            rows = [[number] * size for size in sizes]
            futures.append(batcher.submit(engine.request(*rows, alike=alike, options=options)))
    expected = [[number * size for size in sizes] for number, (sizes, _) in enumerate(asked)]
    assert [result(future) for future in futures] == expected
    batcher.close()
    rows = [row for batch in engine.batches[1:] for row in batch]
    assert sorted(rows) == sorted([number] * size for number, (sizes, _) in enumerate(asked) for size in sizes)
    for batch in engine.batches[1:]:
        sizes = [len(row) for row in batch]
        places = len(sizes) * max(sizes)
        within = (sum(sizes) <= budget and places <= PACKED_PLACES * budget) if packed else places <= budget
        assert within or len(batch) == 1
        assert len(batch) <= window
        assert len({asked[row[0]][1] for row in batch}) == 1
    if window >= sum(len(sizes) for sizes, _ in asked):  # the oldest is never left behind
        assert engine.batches[1][0][0] == 0


def test_an_error_belongs_to_its_request(batcher: Batcher) -> None:
    engine = Engine({13: InputError("no such id")})
    with engine.busy(batcher):
        futures = [batcher.submit(engine.request([number])) for number in (12, 13, -1, 14)]
    assert [result(futures[0]), result(futures[3])] == [[12], [14]]
    with pytest.raises(InputError, match="no such id"):
        result(futures[1])
    with pytest.raises(ArithmeticError):
        result(futures[2])
    assert len(engine.batches[1]) == 4
    assert result(batcher.submit(engine.request([5]))) == [5]


@pytest.mark.parametrize("error", [EngineError("out of memory"), BundleError("has changed")])
def test_an_engine_that_fails_is_an_error_of_the_whole_batch(batcher: Batcher, error: Exception) -> None:
    engine = Engine({13: error})
    with engine.busy(batcher) as first:
        futures = [batcher.submit(engine.request([number])) for number in (12, 13)]
        later = batcher.submit(engine.request([14], alike="other"))
    assert [future.exception(SECONDS) for future in futures] == [error, error]
    assert [result(first), result(later)] == [[1000], [14]]
    assert len(engine.batches) == 3


def test_a_request_that_failed_is_computed_no_further(batcher: Batcher) -> None:
    engine = Engine({0: InputError("no such id")})
    future = batcher.submit(engine.request(*([number] for number in range(99))))
    assert isinstance(future.exception(SECONDS), InputError)
    assert result(batcher.submit(engine.request([5]))) == [5]
    assert engine.batches == [[[0], [1], [2], [3]], [[5]]]


def test_a_request_that_waits_can_be_cancelled(batcher: Batcher) -> None:
    engine = Engine()
    with engine.busy(batcher) as first:
        futures = [batcher.submit(engine.request([number])) for number in range(3)]
        assert futures[1].cancel()
        assert not first.cancel(), "it is computed already"
    assert set(as_completed([first, *futures], SECONDS)) == {first, *futures}
    with pytest.raises(CancelledError):
        result(futures[1])
    assert engine.batches[1] == [[0], [2]]


def test_a_full_queue_refuses(batcher: Batcher) -> None:
    engine, options = Engine(), replace(OPTIONS, max_queue=2)
    with engine.busy(batcher):
        waiting = [batcher.submit(engine.request([number], options=options)) for number in range(2)]
        with pytest.raises(OverloadedError, match="2 requests wait already, and max_queue is 2"):
            batcher.submit(engine.request([2], options=options))
        waiting[0].cancel()
        waiting.append(batcher.submit(engine.request([3], options=options)))
    assert [result(waiting[1]), result(waiting[2])] == [[1], [3]]
    assert result(batcher.submit(engine.request([4], options=options))) == [4]


def test_a_request_waits_for_others_until_the_batch_is_full(batcher: Batcher) -> None:
    engine, options = Engine(), replace(OPTIONS, max_wait_ms=SECONDS * 10_000)
    futures = [batcher.submit(engine.request([number], options=options)) for number in range(4)]
    assert [result(future) for future in futures] == [[0], [1], [2], [3]]
    assert engine.batches == [[[0], [1], [2], [3]]]
    assert result(batcher.submit(engine.request([1] * 9, options=options))) == [9], "full by itself"


def test_closing_ends_the_batch_and_refuses_what_waits() -> None:
    before, batcher, engine = threads(), Batcher(), Engine()
    with engine.busy(batcher) as first:
        waiting = [batcher.submit(engine.request([number])) for number in range(2)]
        waiting[0].cancel()
        (thread,) = threads() - before
        closing = threading.Thread(target=batcher.close)
        closing.start()
        while True:  # until the other thread has closed it
            try:
                waiting.append(batcher.submit(engine.request([7])))
            except EngineError:
                break
            closing.join(0.01)
    closing.join(SECONDS)
    assert not thread.is_alive()
    assert result(first) == [1000]
    assert waiting[0].cancelled()
    for future in waiting[1:]:
        with pytest.raises(EngineError, match="was closed"):
            result(future)
    batcher.close()
    with pytest.raises(EngineError, match="was closed"):
        batcher.submit(engine.request([1]))


def test_closing_does_not_wait_for_others_as_a_request_does() -> None:
    batcher, engine = Batcher(), Engine()
    future = batcher.submit(engine.request([1], options=replace(OPTIONS, max_wait_ms=SECONDS * 10_000)))
    batcher.close()
    assert isinstance(future.exception(SECONDS), EngineError)


def test_it_can_be_closed_in_a_callback() -> None:
    before, batcher, engine = threads(), Batcher(), Engine()
    with engine.busy(batcher) as first:
        (thread,) = threads() - before
        first.add_done_callback(lambda _: batcher.close())
    thread.join(SECONDS)
    assert not thread.is_alive()
    assert result(first) == [1000]


def test_no_thread_is_left_of_one_that_nobody_holds() -> None:
    before = threads()
    unused, batcher, engine = Batcher(), Batcher(), Engine()
    assert result(batcher.submit(engine.request([1]))) == [1]
    (thread,) = threads() - before
    del batcher, unused
    gc.collect()
    thread.join(SECONDS)
    assert not thread.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="this system sends no signals to processes")
def test_an_interrupted_caller_leaves_the_others_alone() -> None:
    """In a process of its own: a worker of a test run may hear of Ctrl-C at other places than the one that waits."""
    script = Path(__file__).with_name("interrupted.py")
    with Popen([sys.executable, "-X", "faulthandler", script], stdout=PIPE, stderr=PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "waiting\n"
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=SECONDS)
    assert (output, errors, child.returncode) == ("interrupted\n[[1000], [1]]\n", "", 0)


@pytest.mark.parametrize("overlapped", [False, True])
def test_a_device_computes_while_the_batch_before_is_answered(batcher: Batcher, overlapped: bool) -> None:
    events: list[str] = []
    engine, options = Engine(), replace(OPTIONS, max_tokens=1, overlapped=overlapped)

    def forward(batch: Rows) -> Callable[[], list[int]]:
        events.append(f"start {batch[0][0]}")
        return lambda: events.append(f"wait {batch[0][0]}") or [0]

    def finish(answers: list[int], number: int) -> None:
        events.append(f"answer {number}")

    with engine.busy(batcher):
        for number in range(3):
            request = Request([[[number]]], forward, _number, partial(finish, number=number), alike=1, batching=options)
            last = batcher.submit(request)
    result(last)
    one, two, three = ([f"start {number}", f"wait {number}", f"answer {number}"] for number in range(3))
    if overlapped:
        one[2:], two[2:] = [], []
        two.insert(1, "answer 0")
        three.insert(1, "answer 1")
    assert events == [*one, *two, *three]


def test_options_that_cannot_be() -> None:
    with pytest.raises(InputError, match="max_wait_ms is -1; expected milliseconds"):
        BatchOptions(max_wait_ms=-1)
    with pytest.raises(InputError, match="max_queue is 0; expected a positive number"):
        BatchOptions(max_queue=0)
