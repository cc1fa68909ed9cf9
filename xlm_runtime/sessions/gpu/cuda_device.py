"""A CUDA device through `cuda-bindings`, which wraps CUDA's runtime library one to one."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from xlm_runtime.errors import EngineError
from xlm_runtime.machine import describe_gpu, open_cuda
from xlm_runtime.sessions.gpu.memory import Bytes, CapturedGraph, Copy2D, Event, OutOfMemoryError, describe_bytes


class CudaDevice:
    """Device number `index`, with a stream of its own.

    Args:
        purpose: who asks, for messages: "provider='tensorrt'".
        extra: the extra that installs cuda-bindings there.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        InputError: no device has this number.
        EngineError: there is no driver, an old one, or no device.
    """

    kind = "cuda"

    def __init__(self, index: int, purpose: str, extra: str) -> None:
        runtime = open_cuda(index, purpose, extra)
        self._cuda: Any = runtime
        self._addresses: set[int] = set()
        self.closed = False
        self._host: dict[int, Bytes] = {}
        self._events: list[Any] = []
        self.index = index
        self.activate()
        self.name, self.architecture = describe_gpu(self._call("cudaGetDeviceProperties", index))
        # a stream that the legacy default stream does not wait for: capture fails beside that one
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        self.stream = int(self._stream)

    def activate(self) -> None:
        self._call("cudaSetDevice", self.index)

    def allocate(self, size: int) -> int:
        error, address = self._cuda.cudaMalloc(max(size, 1))
        if error == self._cuda.cudaError_t.cudaErrorMemoryAllocation:
            self._cuda.cudaGetLastError()  # or the next call reports it again
            free, total = self._call("cudaMemGetInfo")
            raise OutOfMemoryError(
                f"Device {self.index} ({self.name}) has {describe_bytes(free)} of {describe_bytes(total)} free, and "
                f"{describe_bytes(size)} more are needed. End other programs on it (nvidia-smi lists them), give less "
                "at once (max_tokens), or build the engine with smaller profiles."
            )
        self._check(error, "cudaMalloc")
        self._addresses.add(int(address))
        return int(address)

    def free(self, address: int) -> None:
        self._addresses.discard(address)
        self._call("cudaFree", address)  # waits for the device

    def host_buffer(self, size: int) -> Bytes:
        pointer = int(self._call("cudaHostAlloc", max(size, 1), self._cuda.cudaHostAllocDefault))
        buffer = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer)) if size else np.empty(0, np.uint8)
        self._host[pointer] = buffer
        return buffer

    def free_host(self, buffer: Bytes) -> None:
        for pointer, other in list(self._host.items()):
            if other is buffer:
                del self._host[pointer]
                self._call("cudaFreeHost", pointer)

    def copy_in(self, address: int, source: Bytes) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, self._stream)

    def copy_out(self, target: Bytes, address: int) -> None:
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, self._stream)

    def copy(self, copy: Copy2D) -> None:
        self._call(
            "cudaMemcpy2DAsync",
            copy.target,
            copy.target_pitch,
            copy.source,
            copy.source_pitch,
            copy.width,
            copy.height,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice,
            self._stream,
        )

    def zero(self, address: int, size: int) -> None:
        self._call("cudaMemsetAsync", address, 0, size, self._stream)

    def synchronize(self) -> None:
        self._call("cudaStreamSynchronize", self._stream)

    def event(self) -> Event:
        event = self._call("cudaEventCreateWithFlags", self._cuda.cudaEventDisableTiming)
        self._events.append(event)
        return cast(Event, event)

    def record(self, event: Event) -> None:
        self._call("cudaEventRecord", event, self._stream)

    def wait(self, event: Event) -> None:
        self._call("cudaEventSynchronize", event)

    def capture(self, enqueue: Callable[[], None]) -> CapturedGraph:
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            enqueue()
        except BaseException:
            self._cuda.cudaStreamEndCapture(self._stream)  # the stream is of no use while it captures
            self._cuda.cudaGetLastError()
            raise
        graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            return cast(CapturedGraph, self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def replay(self, graph: CapturedGraph) -> None:
        self._call("cudaGraphLaunch", graph, self._stream)

    def release(self, graph: CapturedGraph) -> None:
        self._call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.activate()
        self._cuda.cudaStreamSynchronize(self._stream)
        for event in self._events:
            self._cuda.cudaEventDestroy(event)
        for pointer in self._host:
            self._cuda.cudaFreeHost(pointer)
        for address in self._addresses:
            self._cuda.cudaFree(address)
        self._cuda.cudaStreamDestroy(self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """The results of a function of CUDA's runtime; its error becomes an exception."""
        error, *results = getattr(self._cuda, function)(*arguments)
        self._check(error, function)
        return results[0] if len(results) == 1 else tuple(results)

    def _check(self, error: Any, function: str) -> None:
        if error != self._cuda.cudaError_t.cudaSuccess:
            what = self._cuda.cudaGetErrorString(error)[1].decode()
            raise EngineError(f"CUDA failed on device {self.index}, in {function}: {what} ({error.name}).")
