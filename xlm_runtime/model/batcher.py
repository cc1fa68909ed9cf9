"""Concurrent callers share batches: whoever asks while one is computed is in the next.

One thread computes, one batch after the other. So batches grow with the load by themselves: a lone caller is answered
at once, and of many who wait as many are answered together as the budget of a batch has room for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from time import monotonic
from typing import Any
from weakref import finalize, ref

from xlm_runtime.errors import BundleError, EngineError, OverloadedError
from xlm_runtime.model.batching import BatchOptions, Groups, Sized, fill_batch, is_full
from xlm_runtime.model.closed import closed_error


@dataclass(frozen=True)
class BatchReport:
    """A batch that is about to be computed.

    Attributes:
        rows: how many.
        tokens: the sum of their lengths.
        waited: seconds from the submission of each request whose first rows are among them.
    """

    rows: int
    tokens: int
    waited: tuple[float, ...]


class Request:
    """What one caller asks.

    Args:
        groups: the rows of each input.
        forward: starts a batch, see `answer_groups`.
        postprocess: a group and what the model gave for it → its answer.
        finish: the answers → the result of the future.
        alike: requests whose `alike` are equal share batches, which the `forward` of one of them starts.
        batching: how batches are formed.
        observe: is told of each batch that this request is the first of, in the thread that computes; it must not
            raise.

    Attributes:
        future: its result, or why there is none.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Sized]],
        forward: Callable[[list[Any]], Callable[[], Iterable[Any]]],
        postprocess: Callable[[Sequence[Any], Sequence[Any]], Any],
        finish: Callable[[list[Any]], Any],
        *,
        alike: object,
        batching: BatchOptions,
        observe: Callable[[BatchReport], None] | None = None,
    ) -> None:
        self.groups: Groups[Any, Any, Any] = Groups(groups, postprocess)
        self.forward = forward
        self.alike = alike
        self.batching = batching
        self.observe = observe
        self.future: Future[Any] = Future()
        self.waiting = list(range(len(self.groups.lengths)))
        """Places of rows that no batch has had."""
        self._finish = finish
        self._made = monotonic()
        self._begun: bool | None = None

    def begin(self) -> bool:
        """Whether it is to be answered, and then it can be cancelled no more; False where it was cancelled before."""
        if self._begun is None:
            self._begun = self.future.set_running_or_notify_cancel()
        return self._begun

    def has_begun(self) -> bool:
        """Whether a batch had rows of it."""
        return bool(self._begun)

    def waited(self) -> float:
        """Seconds since it was made."""
        return monotonic() - self._made

    def is_over(self) -> bool:
        """Whether no row of it waits any more, or it was cancelled, which those who wait for it are told of."""
        return not self.waiting or (self.future.cancelled() and not self.begin())

    def patience(self) -> float:
        """Seconds that it may still wait for others."""
        return self.batching.max_wait_ms / 1000 - self.waited()

    def take(self, places: Sequence[int], outputs: Iterable[Any]) -> None:
        """What the model gave for some rows. After the last of them the future has its result."""
        try:
            self.groups.take(places, outputs)
            self.finish_if_complete()
        except BaseException as error:  # whatever it is, it is the caller's
            self.fail(error)

    def finish_if_complete(self) -> None:
        """Set the result where all answers are there."""
        if self.groups.is_complete():
            self.future.set_result(self._finish(list(self.groups.answers())))

    def fail(self, error: BaseException) -> None:
        """Set an error, where there is no result yet, and compute no more of it."""
        self.waiting = []
        if not self.future.done():
            self.future.set_exception(error)


class Batcher:
    """Answers requests of many threads in one, which the first request starts and `close` ends.

    It also ends when nobody holds the batcher any more: the thread does not, and a request that waits has to.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._requests: SimpleQueue[Request | None] = SimpleQueue()  # None closes
        self._waiting: set[Future[Any]] = set()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._closed = False
        finalize(self, _end, ref(self), self._requests)

    def submit(self, request: Request) -> Future[Any]:
        """The request's future.

        Raises:
            OverloadedError: as many wait as may.
            EngineError: the batcher was closed.
        """
        future, most = request.future, request.batching.max_queue
        with self._lock:
            if self._closed:
                raise closed_error()
            if request.groups.is_complete():
                request.finish_if_complete()  # no row to compute
                return future
            if len(self._waiting) >= most:
                raise OverloadedError(
                    f"{len(self._waiting)} requests wait already, and max_queue is {most}; ask again later."
                )
            if self._thread is None:
                worker = _Worker(self._requests, self._waiting)
                self._thread = Thread(target=worker.run, name="xlm-batcher", daemon=True)
                self._thread.start()
            self._waiting.add(future)
            future.add_done_callback(self._waiting.discard)  # where it is cancelled
            self._requests.put(request)
        return future

    def close(self) -> None:
        """Compute the batch that is under way to its end, refuse what waits, and end the thread. Twice does no harm."""
        if self._process != os.getpid():
            return  # the thread is in the process that this one was forked from
        with self._lock:
            self._closed = True
            thread = self._thread
        self._requests.put(None)
        if thread is not None and thread is not current_thread():
            thread.join()


def _end(batcher: ref[Batcher], requests: SimpleQueue[Request | None]) -> None:
    """End the thread of a batcher that nobody holds any more, or of any one where Python ends."""
    alive = batcher()
    if alive is not None:
        alive.close()  # an engine must not compute while its library is taken down
    else:
        requests.put(None)  # safe in a garbage collection, which may come anywhere, where waiting for the thread is not


class _Worker:
    """What the thread does. It knows the batcher's queue, and not the batcher."""

    def __init__(self, requests: SimpleQueue[Request | None], waiting: set[Future[Any]]) -> None:
        self._requests = requests
        self._waiting = waiting
        self._pending: list[Request] = []  # with rows that no batch has had, the next one's first request first
        self._computed: tuple[dict[Request, list[int]], list[Any]] = {}, []  # a batch that is not handed out yet
        self._closing = False

    def run(self) -> None:
        while not self._closing:
            try:
                self._gather()
                self._compute(self._choose())
            except BaseException as error:  # too little memory, even for this
                self._refuse(error)
        self._hand_out()
        self._refuse(closed_error())

    def _refuse(self, error: BaseException) -> None:
        """Give up what waits."""
        for request in self._pending:
            if request.begin():
                request.fail(error)

    def _gather(self) -> None:
        """Wait until there is a batch to compute, or it is time to end."""
        self._pending = [request for request in self._pending if not request.is_over()]
        self._receive_all()
        if not self._pending and not self._closing:
            self._hand_out()
            self._receive(None)
            self._receive_all()
        while self._pending and not self._closing and self._pending[0].patience() > 0 and not self._is_full():
            self._hand_out()
            self._receive(self._pending[0].patience())

    def _receive_all(self) -> None:
        """Take what was submitted so far."""
        while self._receive(0):
            pass

    def _receive(self, seconds: float | None) -> bool:
        """Take the next request, at most so many seconds later; whether there was one."""
        try:
            request = self._requests.get(timeout=None if seconds is None else max(0.0, seconds))
        except Empty:
            return False
        if request is None:
            self._closing = True
        else:
            self._pending.append(request)
        return True

    def _rows(self) -> list[tuple[Request, int]]:
        """Rows that may share a batch with the first request's: of those like it, in the order they wait."""
        first = self._pending[0]
        rows = ((each, place) for each in self._pending if each.alike == first.alike for place in each.waiting)
        return list(islice(rows, first.batching.window_rows))

    def _is_full(self) -> bool:
        """Whether there is nothing to wait for: a batch has no room for more."""
        options = self._pending[0].batching
        lengths = [request.groups.lengths[place] for request, place in self._rows()]
        return len(lengths) >= options.window_rows or is_full(lengths, options.max_tokens, options.packed)

    def _choose(self) -> dict[Request, list[int]]:
        """The next batch: the places of its rows, by request. The request that has waited longest is in it."""
        if self._closing or not self._pending:
            return {}
        first, rows = self._pending[0], self._rows()
        lengths = [request.groups.lengths[place] for request, place in rows]
        chosen: dict[Request, list[int]] = {}
        for i in fill_batch(lengths, first.batching.max_tokens, first.batching.packed):
            request, place = rows[i]
            chosen.setdefault(request, []).append(place)
        for request, places in chosen.items():
            taken = set(places)
            request.waiting = [place for place in request.waiting if place not in taken]
            self._waiting.discard(request.future)
        if first.waiting:  # one with very many rows: others come in between
            self._pending.append(self._pending.pop(0))
        waited = tuple(request.waited() for request in chosen if not request.has_begun())
        batch = {request: places for request, places in chosen.items() if request.begin()}
        if first.observe is not None and batch:
            sizes = [request.groups.lengths[place] for request, places in batch.items() for place in places]
            first.observe(BatchReport(len(sizes), sum(sizes), waited))
        return batch

    def _compute(self, batch: dict[Request, list[int]]) -> None:
        """Compute a batch. An error is that of the bundle or engine, and of all, or it is looked for in each request.

        On a device it is computed while the batch before is handed out.
        """
        if not batch:
            return
        first = next(iter(batch))
        rows = [row for request, places in batch.items() for row in request.groups.rows(places)]
        apart: list[dict[Request, list[int]]] = []
        try:
            wait = first.forward(rows)
            self._hand_out()
            self._computed = batch, list(wait())
        except BaseException as error:
            if len(batch) == 1 or isinstance(error, (BundleError, EngineError)):
                for request in batch:
                    request.fail(error)
            else:
                apart = [{request: places} for request, places in batch.items()]
        for each in apart:
            self._compute(each)
        if not first.batching.overlapped:
            self._hand_out()

    def _hand_out(self) -> None:
        """Give each request what the model gave for its rows."""
        (batch, outputs), self._computed = self._computed, ({}, [])
        rest = iter(outputs)
        for request, places in batch.items():
            request.take(places, islice(rest, len(places)))
