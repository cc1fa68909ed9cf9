"""What the host does while a device computes: the order of things, told by a device that logs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from xlm_runtime.errors import EngineError, InputError
from xlm_runtime.model.batching import BatchOptions, answer_groups

Rows = list[list[int]]

# every window one batch of two rows
OPTIONS = BatchOptions(max_tokens=2, window_rows=2, packed=False, overlapped=True)


class Log:
    """Reads numbers, computes and answers them, and says when. Rows are lists of one number, of one token each."""

    def __init__(self, failing_start: int = -1, failing_wait: int = -1) -> None:
        self.events: list[str] = []
        self.under_way = self.most = 0
        self._failing = {"start": failing_start, "wait": failing_wait}

    def read(self, numbers: range, failing: Exception | None = None) -> Iterator[Rows]:
        for number in numbers:
            self.events.append(f"read {number}")
            yield [[number]]
        if failing is not None:
            raise failing

    def forward(self, batch: Rows) -> Callable[[], list[int]]:
        numbers = [row[0] for row in batch]
        self._do("start", numbers)
        self.under_way += 1
        self.most = max(self.most, self.under_way)

        def wait() -> list[int]:
            self.under_way -= 1
            self._do("wait", numbers)
            return numbers

        return wait

    def postprocess(self, rows: Sequence[list[int]], outputs: Sequence[int]) -> int:
        self.events.append(f"answer {outputs[0]}")
        return outputs[0]

    def answers(self, numbers: range, failing: Exception | None = None, **options: Any) -> Iterator[int]:
        groups = self.read(numbers, failing)
        return answer_groups(groups, self.forward, self.postprocess, options.get("options", OPTIONS))

    def _do(self, what: str, numbers: list[int]) -> None:
        if self._failing[what] in numbers:
            raise EngineError(f"{what} {numbers}")
        self.events.append(f"{what} {numbers}")


def test_a_batch_is_read_while_one_is_computed_and_answered_while_the_next_is() -> None:
    log = Log()
    assert list(log.answers(range(6))) == list(range(6))
    assert log.events == [
        *("read 0", "read 1", "start [0, 1]"),
        *("read 2", "read 3", "start [2, 3]"),
        *("wait [0, 1]", "answer 0", "answer 1"),
        *("read 4", "read 5", "start [4, 5]"),
        *("wait [2, 3]", "answer 2", "answer 3"),
        *("wait [4, 5]", "answer 4", "answer 5"),
    ]


def test_on_a_cpu_a_batch_is_answered_before_the_next_is_read() -> None:
    log = Log()
    options = BatchOptions(max_tokens=2, window_rows=2)
    assert list(log.answers(range(4), options=options)) == list(range(4))
    first = ["read 0", "read 1", "start [0, 1]", "wait [0, 1]", "answer 0", "answer 1"]
    assert log.events[:6] == first
    assert log.most == 1


def test_no_more_than_two_batches_are_under_way_or_two_windows_read() -> None:
    log = Log()
    answers = log.answers(range(1000), options=BatchOptions(max_tokens=1, window_rows=8, overlapped=True))
    assert next(answers) == 0
    assert sum(event.startswith("read") for event in log.events) == 16
    assert list(answers) == list(range(1, 1000))
    assert log.most == 2


def test_answers_are_taken_one_by_one_where_each_row_is_to_be_answered_as_it_comes() -> None:
    log = Log()
    options = BatchOptions(window_rows=1, overlapped=True)
    assert next(log.answers(range(3), options=options)) == 0
    assert log.events == ["read 0", "start [0]", "wait [0]", "answer 0"]


def take(answers: Iterator[int]) -> tuple[list[int], Exception | None]:
    taken: list[int] = []
    try:
        for answer in answers:
            taken.append(answer)
    except Exception as error:
        return taken, error
    return taken, None


def test_errors_come_at_their_place() -> None:
    taken, error = take(Log().answers(range(5), InputError("the sixth")))
    assert (taken, str(error)) == ([0, 1, 2, 3, 4], "the sixth")
    taken, error = take(Log().answers(range(5), ValueError("of the source")))  # its window is lost, as on a CPU
    assert (taken, str(error)) == ([0, 1, 2, 3], "of the source")
    for failing in ({"failing_start": 5}, {"failing_wait": 5}):
        taken, error = take(Log(**failing).answers(range(100)))
        assert taken == [0, 1, 2, 3]
        assert isinstance(error, EngineError)
        assert str(error).endswith("[4, 5]")


def test_a_closed_or_interrupted_call_starts_nothing_more() -> None:
    log = Log()
    answers = log.answers(range(100))
    next(answers)
    done = list(log.events)
    answers.close()  # type: ignore[attr-defined]
    assert log.events == done
    answers = log.answers(range(100), options=BatchOptions(max_tokens=1, window_rows=4, overlapped=True))
    next(answers)
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt)  # type: ignore[attr-defined]
    assert next(answers, "over") == "over"


def test_rows_that_stand_for_failures_keep_their_place() -> None:
    log = Log()
    groups: list[Rows] = [[], [[0]], [], [], [[1]], []]
    answers = answer_groups(groups, log.forward, lambda rows, found: [*found], OPTIONS)
    assert list(answers) == [[], [0], [], [], [1], []]


def test_a_packed_list_is_cut_into_parts() -> None:
    started: list[int] = []

    def forward(batch: list[range]) -> Callable[[], list[int]]:
        started.append(sum(map(len, batch)))
        return lambda: [len(row) for row in batch]

    lengths = [8 + 16 * (i % 16) for i in range(64)]
    groups = [[range(length)] for length in lengths]
    for packed, count, batches in ((True, 64, 2), (True, None, 2), (False, 64, 1)):
        started.clear()
        options = BatchOptions(1 << 20, packed=packed, overlapped=True)
        answers = answer_groups(groups, forward, lambda rows, found: found[0], options, count)
        assert list(answers) == lengths
        assert len(started) == batches


def test_a_packed_stream_is_read_batch_by_batch() -> None:
    """Of two batches of a part the host would wait for the first, before it reads on."""
    events: list[str] = []

    def read() -> Iterator[list[range]]:
        for i in range(2000):
            events.append("read")
            yield [range(8 + i % 377)]

    def forward(batch: list[range]) -> Callable[[], list[range]]:
        events.append("start")
        return lambda: batch

    options = BatchOptions(8192, packed=True, overlapped=True)
    answers = answer_groups(read(), forward, lambda rows, found: len(found[0]), options)
    assert list(answers) == [8 + i % 377 for i in range(2000)]
    starts = [i for i, event in enumerate(events) if event == "start"]
    together = sum(events[i - 1] == "start" for i in starts)
    assert together < len(starts) / 20
