"""What sessions need of a GPU: memory, copies, and graphs of captured work, all on one stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.slabs import Copy2D

Bytes = NDArray[np.uint8]
CapturedGraph = NewType("CapturedGraph", object)


class OutOfMemoryError(EngineError, MemoryError):
    """The device has too little free memory."""


class Device(Protocol):
    """A device and one stream on it. What is enqueued runs in order; only `synchronize` waits for it."""

    kind: str
    """ONNX Runtime's name of the kind of device, "cuda"."""
    index: int
    name: str
    architecture: str
    """Such as "sm90"."""
    stream: int
    """The stream's handle."""
    closed: bool

    def activate(self) -> None:
        """Make this the calling thread's device."""
        ...

    def allocate(self, size: int) -> int:
        """The address of `size` new bytes, aligned for tensors.

        Raises:
            OutOfMemoryError: there is no room; the message says how much there is.
        """
        ...

    def free(self, address: int) -> None:
        """Give memory back once what was enqueued is done."""
        ...

    def host_buffer(self, size: int) -> Bytes:
        """Page-locked memory of the host, which copies to and from the device need not stage."""
        ...

    def free_host(self, buffer: Bytes) -> None: ...

    def copy_in(self, address: int, source: Bytes) -> None: ...

    def copy_out(self, target: Bytes, address: int) -> None: ...

    def copy(self, copy: Copy2D) -> None: ...

    def zero(self, address: int, size: int) -> None: ...

    def synchronize(self) -> None:
        """Wait until all that was enqueued is done.

        Raises:
            EngineError: something of it failed.
        """
        ...

    def capture(self, enqueue: Callable[[], None]) -> CapturedGraph:
        """Record what `enqueue` puts on the stream, without running it."""
        ...

    def replay(self, graph: CapturedGraph) -> None: ...

    def release(self, graph: CapturedGraph) -> None: ...

    def close(self) -> None:
        """Give all memory and the stream back."""
        ...


def describe_bytes(size: Any) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
