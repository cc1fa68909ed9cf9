"""Device memory that is allocated once and reused: one buffer for a call's small arrays, a pool for caches."""

from __future__ import annotations

from xlm_runtime.sessions.gpu.device import Bytes, Device, OutOfMemoryError

# Blocks kept for reuse: two caches and the new tokens, in a few sizes.
_MOST_FREE_BLOCKS = 16


class Arena:
    """A buffer on the device and, where `mirrored`, one of the same size in page-locked host memory.

    It grows when more is needed, which happens only where no profile says what the most is; its address changes then.
    """

    def __init__(self, device: Device, size: int, *, mirrored: bool) -> None:
        self._device = device
        self._mirrored = mirrored
        self.size = 0
        self.address = 0
        self.host: Bytes
        self.reserve(max(size, 1))

    def reserve(self, size: int) -> None:
        """Make room for `size` bytes."""
        if size <= self.size:
            return
        grown = max(size, self.size + self.size // 2)
        if self.size:
            self._device.synchronize()
            self._device.free(self.address)
            self.size = 0
            if self._mirrored:
                self._device.free_host(self.host)
        self.address = self._device.allocate(grown)
        if self._mirrored:
            self.host = self._device.host_buffer(grown)
        self.size = grown


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
