"""A device in host memory, behind the interface of a GPU, which refuses what a GPU refuses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from xlm_runtime.sessions.gpu.memory import Bytes, CapturedGraph, Copy2D, Event, OutOfMemoryError
from xlm_runtime.sessions.gpu.planning import ALIGNMENT

JUNK = 0xFF  # what new memory holds: NaN in every floating-point type


class FakeDevice:
    """Runs at once what a GPU would enqueue; while it captures it only records.

    Every copy must stay inside one allocation, and `log` tells what was done. `memory` bounds what is allocated.
    """

    kind, index, name, architecture, stream = "cpu", 0, "fake", "sm80", 7

    def __init__(self, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.log: list[Any] = []
        self.closed = False
        self._blocks: dict[int, tuple[Bytes, int]] = {}
        self._recording: list[Callable[[], None]] | None = None

    @property
    def used(self) -> int:
        return sum(size for _, size in self._blocks.values())

    def activate(self) -> None: ...

    def allocate(self, size: int) -> int:
        if self.used + size > self.memory:
            raise OutOfMemoryError(f"{self.memory - self.used} bytes are free, and {size} more are needed.")
        buffer = np.full(size + ALIGNMENT, JUNK, np.uint8)
        address = -(-buffer.ctypes.data // ALIGNMENT) * ALIGNMENT
        self._blocks[address] = buffer, size
        self.log.append(("allocate", size))
        return address

    def free(self, address: int) -> None:
        del self._blocks[address]
        self.log.append(("free", address))

    def host_buffer(self, size: int) -> Bytes:
        return np.full(size, JUNK, np.uint8)

    def free_host(self, buffer: Bytes) -> None: ...

    def bytes_at(self, address: int, size: int) -> Bytes:
        """`size` bytes, which must lie in one allocation."""
        inside = any(start <= address and address + size <= start + most for start, (_, most) in self._blocks.items())
        assert inside or size == 0, f"{size} bytes at {address} are not allocated"
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def copy_in(self, address: int, source: Bytes) -> None:
        self.enqueue(lambda: self.bytes_at(address, source.nbytes).__setitem__(slice(None), source))

    def copy_out(self, target: Bytes, address: int) -> None:
        self.log.append(("copy_out", target.nbytes))
        self.enqueue(lambda: target.__setitem__(slice(None), self.bytes_at(address, target.nbytes)))

    def copy(self, copy: Copy2D) -> None:
        assert copy.width <= copy.target_pitch
        assert copy.width <= copy.source_pitch
        self.log.append(copy)

        def move() -> None:
            for i in range(copy.height):
                piece = self.bytes_at(copy.source + i * copy.source_pitch, copy.width)
                self.bytes_at(copy.target + i * copy.target_pitch, copy.width)[:] = piece

        self.enqueue(move)

    def zero(self, address: int, size: int) -> None:
        self.enqueue(lambda: self.bytes_at(address, size).fill(0))

    def synchronize(self) -> None:
        assert self._recording is None, "a stream that captures cannot be waited for"

    def event(self) -> Event:
        return Event(object())

    def record(self, event: Event) -> None: ...

    def wait(self, event: Event) -> None:
        assert self._recording is None, "a stream that captures cannot be waited for"

    def capture(self, enqueue: Callable[[], None]) -> CapturedGraph:
        self._recording = []
        try:
            enqueue()
            graph = self._recording
        finally:
            self._recording = None
        self.log.append("capture")
        return CapturedGraph(graph)

    def replay(self, graph: CapturedGraph) -> None:
        self.log.append("replay")
        for step in graph:  # type: ignore[attr-defined]
            step()

    def release(self, graph: CapturedGraph) -> None:
        self.log.append("release")

    def close(self) -> None:
        self._blocks.clear()
        self.closed = True

    def enqueue(self, step: Callable[[], None]) -> None:
        """What a kernel does: runs now, or is recorded while the stream captures."""
        if self._recording is None:
            step()
        else:
            self._recording.append(step)
