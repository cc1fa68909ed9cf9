"""A process that Ctrl-C interrupts while it waits for a batch: the others in the queue are answered all the same."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

from xlm_runtime.model.batcher import Batcher, Request
from xlm_runtime.model.batching import BatchOptions


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever this process was started with
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    batcher, begun, goes_on = Batcher(), threading.Event(), threading.Event()

    def forward(batch: list[list[int]]) -> Callable[[], list[int]]:
        begun.set()
        goes_on.wait()
        return lambda: [sum(row) for row in batch]

    def request(number: int) -> Request:
        return Request(
            [[[number]]], forward, lambda rows, outputs: outputs[0], list, alike=None, batching=BatchOptions()
        )

    first = batcher.submit(request(1000))
    begun.wait()
    other = batcher.submit(request(1))
    try:
        print("waiting", flush=True)
        first.result()
    except KeyboardInterrupt:
        print("interrupted")
    goes_on.set()
    print([first.result(), other.result()])
    batcher.close()


if __name__ == "__main__":
    main()
