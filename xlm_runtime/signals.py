"""SIGTERM as an exception, so that what is half done is cleaned up as it is on Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_TERMINATED = 143


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def terminated_raises() -> Iterator[None]:
    """While the block runs SIGTERM raises `Terminated` in the main thread; a second one changes nothing.

    Where the signal is ignored or handled already, or outside the main thread, it stays as it is.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
