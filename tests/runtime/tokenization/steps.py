"""Work counted instead of timed: the same on every machine, however busy it is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# n log n grows by 2.2 from a thousand to two thousand, n² by 4
MOST_GROWTH = 2.3


def count_steps(run: Callable[[], object]) -> int:
    """Lines of Python that a call executes, and functions in C that they call."""
    steps = 0

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal steps
        steps += event == "line"
        return line

    def call(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal steps
        steps += event == "c_call"

    tracer, profiler = sys.gettrace(), sys.getprofile()
    sys.settrace(line)
    sys.setprofile(call)
    try:
        run()
    finally:
        sys.settrace(tracer)
        sys.setprofile(profiler)
    return steps


def check_near_linear(steps_of: Callable[[int], int], size: int) -> None:
    """Steps for sizes n, 2n and 4n at most little more than double with each doubling."""
    counts = [steps_of(size * factor) for factor in (1, 2, 4)]
    assert counts[1] < MOST_GROWTH * counts[0], counts
    assert counts[2] < MOST_GROWTH * counts[1], counts


@contextmanager
def processor_seconds(limit: int) -> Iterator[None]:
    """Ends what would take hours, for work within one function in C, such as a regular expression's, that no step
    shows. Counts the processor time of this process, not that of its neighbours."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {limit} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
