"""Progress of long work, on a terminal alone."""

from __future__ import annotations

import sys
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
