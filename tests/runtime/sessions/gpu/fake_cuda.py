"""`cuda.bindings.runtime` without a GPU: the functions that `CudaDevice` calls, over host memory.

Each returns a tuple whose first value is the error, as the real ones do.

What is enqueued runs at once; with `late` only when somebody waits for it, as late as a device may be.
"""

# ruff: noqa: N801, N802, N815

from __future__ import annotations

import ctypes
import enum
from threading import RLock
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.sessions.gpu.fake import JUNK


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorSystemDriverMismatch = 803
    cudaErrorIllegalAddress = 700


class FakeRuntime:
    """Memory of `memory` bytes on one device of compute capability 8.0."""

    cudaError_t = cudaError_t
    cudaHostAllocDefault = 0
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="in", cudaMemcpyDeviceToHost="out", cudaMemcpyDeviceToDevice="on"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")

    def __init__(self, memory: int = 1 << 30) -> None:
        self.memory = memory
        self.freed: list[np.ndarray] = []  # kept, so that no later block has the address of one of them
        self.driver = 13000
        self.count: tuple[cudaError_t, int | None] = (cudaError_t.cudaSuccess, 1)
        self.failing: dict[str, cudaError_t] = {}
        self.calls: list[str] = []
        self.blocks: dict[int, np.ndarray] = {}
        self.pinned: dict[int, np.ndarray] = {}
        self.recording: list[Any] | None = None
        self.late = False
        self.pending: list[Any] = []
        self.turn = RLock()  # of threads that wait while others enqueue
        self.events: dict[int, int] = {}
        """event → how many of the pending steps are before it"""
        self.streams = 0

    @property
    def used(self) -> int:
        return sum(block.nbytes for block in self.blocks.values())

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int | None]:
        return self.count

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:
        return cudaError_t.cudaSuccess, self.driver

    def cudaRuntimeGetVersion(self) -> tuple[cudaError_t, int]:
        return cudaError_t.cudaSuccess, 13050

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:
        return cudaError_t.cudaSuccess, b"the fake says so"

    def cudaGetLastError(self) -> tuple[cudaError_t]:
        return (cudaError_t.cudaSuccess,)

    def cudaSetDevice(self, index: int) -> tuple[cudaError_t]:
        return self._done("cudaSetDevice")

    def cudaGetDeviceProperties(self, index: int) -> tuple[cudaError_t, Any]:
        return cudaError_t.cudaSuccess, SimpleNamespace(name=b"Fake GPU\0\0", major=8, minor=0)

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int, int]:
        return cudaError_t.cudaSuccess, self.memory - self.used, self.memory

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        self.streams += 1
        return cudaError_t.cudaSuccess, 7

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:
        self.streams -= 1
        return self._done("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:
        assert self.recording is None
        self._run(len(self.pending))
        return self._done("cudaStreamSynchronize")

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int]:
        event = len(self.events) + 1
        self.events[event] = 0
        return *self._done("cudaEventCreateWithFlags"), event

    def cudaEventRecord(self, event: int, stream: int) -> tuple[cudaError_t]:
        with self.turn:
            self.events[event] = len(self.pending)
        return self._done("cudaEventRecord")

    def cudaEventSynchronize(self, event: int) -> tuple[cudaError_t]:
        with self.turn:
            self._run(self.events[event])
        return self._done("cudaEventSynchronize")

    def cudaEventDestroy(self, event: int) -> tuple[cudaError_t]:
        del self.events[event]
        return self._done("cudaEventDestroy")

    def _run(self, count: int) -> None:
        with self.turn:
            steps, self.pending = self.pending[:count], self.pending[count:]
            for event, before in self.events.items():
                self.events[event] = max(before - count, 0)
            for step in steps:
                step()

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:
        if self.used + size > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, None
        buffer = np.full(size + 256, JUNK, np.uint8)
        start = -buffer.ctypes.data % 256
        address = buffer.ctypes.data + start
        self.blocks[address] = buffer[start : start + size]
        return cudaError_t.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[cudaError_t]:
        self._run(len(self.pending))
        self.freed.append(self.blocks.pop(address))
        return self._done("cudaFree")

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int]:
        buffer = np.full(size, JUNK, np.uint8)
        self.pinned[buffer.ctypes.data] = buffer
        return cudaError_t.cudaSuccess, buffer.ctypes.data

    def cudaFreeHost(self, pointer: int) -> tuple[cudaError_t]:
        self._run(len(self.pending))
        del self.pinned[pointer]
        return self._done("cudaFreeHost")

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[cudaError_t]:
        homes = {"in": (self.blocks, self.pinned), "out": (self.pinned, self.blocks)}[kind]
        self._inside(homes[0], to, size)
        self._inside(homes[1], source, size)
        return self._enqueue("cudaMemcpyAsync", lambda: ctypes.memmove(to, source, size))

    def cudaMemcpy2DAsync(
        self, to: int, pitch: int, source: int, other: int, width: int, height: int, kind: str, stream: int
    ) -> tuple[cudaError_t]:
        assert kind == "on"
        assert width <= min(pitch, other)
        for i in range(height):
            self._inside(self.blocks, to + i * pitch, width)
            self._inside(self.blocks, source + i * other, width)

        def move() -> None:
            for i in range(height):
                ctypes.memmove(to + i * pitch, source + i * other, width)

        return self._enqueue("cudaMemcpy2DAsync", move)

    def cudaMemsetAsync(self, address: int, value: int, size: int, stream: int) -> tuple[cudaError_t]:
        self._inside(self.blocks, address, size)
        return self._enqueue("cudaMemsetAsync", lambda: ctypes.memset(address, value, size))

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[cudaError_t]:
        assert mode == "thread"
        self.recording = []
        return self._done("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, Any]:
        graph, self.recording = self.recording, None
        return *self._done("cudaStreamEndCapture"), graph

    def cudaGraphInstantiate(self, graph: list[Any], flags: int) -> tuple[cudaError_t, Any]:
        return *self._done("cudaGraphInstantiate"), list(graph)

    def cudaGraphDestroy(self, graph: list[Any]) -> tuple[cudaError_t]:
        return self._done("cudaGraphDestroy")

    def cudaGraphExecDestroy(self, graph: list[Any]) -> tuple[cudaError_t]:
        return self._done("cudaGraphExecDestroy")

    def cudaGraphLaunch(self, graph: list[Any], stream: int) -> tuple[cudaError_t]:
        for step in graph:
            self.enqueue(step)
        return self._done("cudaGraphLaunch")

    def _done(self, name: str) -> tuple[cudaError_t]:
        self.calls.append(name)
        return (self.failing.get(name, cudaError_t.cudaSuccess),)

    def _enqueue(self, name: str, step: Any) -> tuple[cudaError_t]:
        self.enqueue(step)
        return self._done(name)

    def enqueue(self, step: Any) -> None:
        """What a kernel does: runs now, or later, or is recorded while the stream captures."""
        if self.recording is not None:
            self.recording.append(step)
        elif self.late:
            with self.turn:
                self.pending.append(step)
        else:
            step()

    @staticmethod
    def _inside(home: dict[int, np.ndarray], address: int, size: int) -> None:
        fits = any(start <= address and address + size <= start + block.nbytes for start, block in home.items())
        assert fits or size == 0, f"{size} bytes at {address} are not allocated there"
