"""Progress of long work, on a terminal alone."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(total: int, unit: str = "question") -> Iterator[Callable[[int], None]]:
    """Shows how many of `total` are done, on a terminal alone: with tqdm where it is installed, else in a line."""
    stream = sys.stderr
    if not stream.isatty():
        yield lambda done: None
        return
    try:
        from tqdm import tqdm
    except ImportError:

        def show(done: int) -> None:
            if done % 10 == 0 or done == total:
                print(f"\r{done} of {total} {unit}", end="", file=stream, flush=True)

        yield show
        print(file=stream)
        return
    with tqdm(total=total, unit=unit, file=stream) as bar:
        yield lambda done: bar.update(done - bar.n)


@contextmanager
def file_progress(size: int) -> Iterator[Callable[[int, int], None]]:
    """Shows how much of a file of `size` bytes is done, rows a second and the time left, on a terminal alone.

    Yields:
        What is called with the rows that are done and the file's bytes up to there. Its first call says what was done
        before.
    """
    stream = sys.stderr
    if not stream.isatty():
        yield lambda rows, end: None
        return
    start: tuple[float, int, int] | None = None  # time, rows, bytes

    def rate(rows: int, end: int) -> tuple[str, float]:
        """What is said of the rows, and the seconds that are left."""
        nonlocal start
        start = start or (time.monotonic(), rows, end)
        seconds = time.monotonic() - start[0]
        left = seconds * (size - end) / max(1, end - start[2])
        return f"{rows:,} rows, {(rows - start[1]) / max(seconds, 1e-3):,.1f} a second", left

    try:
        from tqdm import tqdm
    except ImportError:

        def show(rows: int, end: int) -> None:
            said, left = rate(rows, end)
            print(f"\r{end / max(1, size):4.0%}, {said}, {left:,.0f} s left   ", end="", file=stream, flush=True)

        yield show
        print(file=stream)
        return
    with tqdm(total=size, unit="B", unit_scale=True, unit_divisor=1024, file=stream) as bar:

        def update(rows: int, end: int) -> None:
            if start is None:
                bar.initial = bar.n = end
            bar.set_postfix_str(rate(rows, end)[0], refresh=False)
            bar.update(end - bar.n)

        yield update
