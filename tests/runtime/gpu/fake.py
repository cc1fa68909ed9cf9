"""A device in host memory, behind the interface of a GPU, which refuses what a GPU refuses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.sessions.gpu.device import Bytes, CapturedGraph, OutOfMemoryError
from xlm_runtime.sessions.gpu.engine import Call
from xlm_runtime.sessions.gpu.onnxruntime_engine import OnnxRuntimeEngine
from xlm_runtime.sessions.gpu.planning import ALIGNMENT, Profile, Tensor
from xlm_runtime.sessions.gpu.session import GpuSession
from xlm_runtime.sessions.gpu.slabs import Copy2D

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
        self._do(lambda: self.bytes_at(address, source.nbytes).__setitem__(slice(None), source))

    def copy_out(self, target: Bytes, address: int) -> None:
        self.log.append(("copy_out", target.nbytes))
        self._do(lambda: target.__setitem__(slice(None), self.bytes_at(address, target.nbytes)))

    def copy(self, copy: Copy2D) -> None:
        assert copy.width <= copy.target_pitch
        assert copy.width <= copy.source_pitch
        self.log.append(copy)

        def move() -> None:
            for i in range(copy.height):
                piece = self.bytes_at(copy.source + i * copy.source_pitch, copy.width)
                self.bytes_at(copy.target + i * copy.target_pitch, copy.width)[:] = piece

        self._do(move)

    def zero(self, address: int, size: int) -> None:
        self._do(lambda: self.bytes_at(address, size).fill(0))

    def synchronize(self) -> None:
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

    def _do(self, step: Callable[[], None]) -> None:
        if self._recording is None:
            step()
        else:
            self._recording.append(step)


class FakeExecution:
    def __init__(self, engine: FakeEngine, call: Call) -> None:
        self.capturable = True
        self._engine, self._call = engine, call

    def enqueue(self) -> None:
        self._engine.execute(self._call)


class FakeEngine(OnnxRuntimeEngine):
    """Computes a graph with ONNX Runtime on the CPU, from and to addresses, under a TensorRT engine's restrictions."""

    def __init__(self, onnxruntime: Any, session: Any, device: FakeDevice, *, profiles: tuple[Profile, ...]) -> None:
        super().__init__(onnxruntime, session, device, name="fake", profiles=profiles)
        self.calls: list[Call] = []
        self.fake = device

    def enqueue(self, call: Call) -> None:
        self.execute(call)

    def prepare(self, call: Call) -> FakeExecution:
        return FakeExecution(self, call)

    def execute(self, call: Call) -> None:
        profile = self.profiles[call.profile]
        for tensor, binding in zip((*self.inputs, *self.outputs), (*call.inputs, *call.outputs), strict=True):
            assert binding.name == tensor.name
            assert binding.address % ALIGNMENT == 0
            self.fake.bytes_at(binding.address, int(np.prod(binding.shape)) * tensor.storage.itemsize)
        for tensor, binding in zip(self.inputs, call.inputs, strict=True):
            for low, size, high in zip(
                tensor.shape(profile.low), binding.shape, tensor.shape(profile.high), strict=True
            ):
                assert low <= size <= high, f"{binding} is outside of {profile}"
        self.calls.append(call)
        super_enqueue = super().enqueue
        self.fake._do(lambda: super_enqueue(call))


def open_fake(
    graph: Path, profiles: tuple[Profile, ...], *, buckets: bool = True, graphs: int = 8, memory: int = 1 << 30
) -> tuple[GpuSession, FakeEngine, FakeDevice]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False
    device = FakeDevice(memory)
    opened = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    engine = FakeEngine(onnxruntime, opened, device, profiles=profiles)
    return GpuSession(engine, device, buckets=buckets, graphs=graphs), engine, device


def profile(tensors: tuple[Tensor, ...], index: int, low: dict[str, int], high: dict[str, int]) -> Profile:
    return Profile(index, f"profile {index}", low, high)
