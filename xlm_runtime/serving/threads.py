"""A generator that computes, read in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import closing, suppress
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")


class _Last:
    """Behind the last item: what ended the generator, if it was an error."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def in_thread(items: Generator[T, None, None], done: Callable[[], None]) -> AsyncGenerator[T, None]:
    """The items of a generator that runs in a thread of its own, from now on. It is closed where they are read no more.

    Args:
        done: is called in the event loop when the thread ends.
    """
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[T | _Last] = asyncio.Queue()
    given_up = Event()

    def finish(last: _Last) -> None:
        queue.put_nowait(last)
        done()

    def run() -> None:
        last = _Last()
        try:
            with closing(items):
                for item in items:
                    loop.call_soon_threadsafe(queue.put_nowait, item)
                    if given_up.is_set():
                        break
        except BaseException as error:
            last = _Last(error)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(finish, last)

    Thread(target=run, name="xlm-stream", daemon=True).start()
    return _read(queue, given_up)


async def _read(queue: asyncio.Queue[Any], given_up: Event) -> AsyncGenerator[Any, None]:
    try:
        while not isinstance(item := await queue.get(), _Last):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        given_up.set()
