"""What sessions need of a GPU: memory, copies, and graphs of captured work, all on one stream.

Memory is allocated once and reused: one buffer for a call's small arrays, a pool for caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NewType, Protocol

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import EngineError

# Blocks kept for reuse: two caches and the new tokens, in a few sizes.
_MOST_FREE_BLOCKS = 16

# A buffer's first size: ids and indices of the largest batch that is captured fit, and no graph is lost as it grows.
_LEAST_ARENA = 1 << 20

Bytes = NDArray[np.uint8]
CapturedGraph = NewType("CapturedGraph", object)
Event = NewType("Event", object)


@dataclass(frozen=True)
class Copy2D:
    """`height` pieces of `width` bytes, `pitch` bytes apart, from one device address to another."""

    target: int
    target_pitch: int
    source: int
    source_pitch: int
    width: int
    height: int


class OutOfMemoryError(EngineError, MemoryError):
    """The device has too little free memory."""


class Device(Protocol):
    """A device and one stream on it. What is enqueued runs in order; only `synchronize` and `wait` wait for it."""

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

    def event(self) -> Event:
        """A mark to set on the stream, again and again; it lasts as long as the device."""
        ...

    def record(self, event: Event) -> None:
        """Set a mark behind what was enqueued so far."""
        ...

    def wait(self, event: Event) -> None:
        """Wait until all before a mark, where it was set last, is done.

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


class Arena:
    """A buffer on the device, and beside it one in page-locked host memory for what goes there or comes back.

    Both grow when more is needed, to twice their size or more. The device's does so only where no profile said what the
    most is; its address changes then.
    """

    def __init__(self, device: Device, size: int) -> None:
        self._device = device
        self.host = device.host_buffer(0)
        self.size = 0
        self.address = 0
        self.reserve(max(size, _LEAST_ARENA))

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes on the device."""
        if size > self.size:
            grown = max(size, 2 * self.size)
            if self.size:
                self._device.synchronize()
                self._device.free(self.address)
                self.size = 0
            self.address = self._device.allocate(grown)
            self.size = grown

    def reserve_host(self, size: int) -> None:
        """Make room for `size` bytes on the host; what was there is lost, and nothing of it may be under way."""
        if size > self.host.nbytes:
            self._device.free_host(self.host)
            self.host = self._device.host_buffer(max(size, 2 * self.host.nbytes))


class BlockPool:
    """Blocks of device memory; one that was given back is handed out again for the same size.

    So a generation that is like the last one finds its cache at the same address, where its CUDA graphs read it. What
    is enqueued runs in order, so a block may be handed out while the work of its last owner is still to run.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._free: list[tuple[int, int]] = []  # size and address, the one given back last behind

    def take(self, size: int, *, zero: bool) -> int:
        """The address of `size` bytes, all of them zero where asked for.

        Raises:
            OutOfMemoryError: there is no room, though all unused blocks were given back to the device.
        """
        address = next((block[1] for block in reversed(self._free) if block[0] == size), None)
        if address is not None:
            self._free.remove((size, address))
        else:
            self._shrink(_MOST_FREE_BLOCKS)
            address = self._allocate(size)
        if zero:  # attention reads the room behind the tokens with a weight of zero, and zero times NaN is NaN
            self._device.zero(address, size)
        return address

    def give(self, address: int, size: int) -> None:
        """Take a block back. It only notes it, since the garbage collector may call this at any time."""
        self._free.append((size, address))

    def _allocate(self, size: int) -> int:
        try:
            return self._device.allocate(size)
        except OutOfMemoryError:
            if not self._free:
                raise
            self._shrink(0)
            return self._device.allocate(size)

    def _shrink(self, most: int) -> None:
        if len(self._free) > most:
            self._device.synchronize()
        while len(self._free) > most:
            self._device.free(self._free.pop(0)[1])


def describe_bytes(size: Any) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
