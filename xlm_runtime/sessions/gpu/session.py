"""A session whose engine computes on a device: arrays go there, through one buffer, and only answers come back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from threading import RLock
from typing import Any

import numpy as np

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.arena import Arena, BlockPool
from xlm_runtime.sessions.gpu.cache import PAST, PRESENT, Block, DeviceArray, DeviceCache, heads_and_size
from xlm_runtime.sessions.gpu.device import Device
from xlm_runtime.sessions.gpu.engine import Binding, Call, Engine
from xlm_runtime.sessions.gpu.graphs import GraphPool
from xlm_runtime.sessions.gpu.padding import cut, fill
from xlm_runtime.sessions.gpu.planning import (
    ANY_SHAPE,
    Dims,
    Region,
    Tensor,
    bucket_dims,
    buffer_size,
    choose_profile,
    plan_buffer,
    read_dims,
    size_of,
)
from xlm_runtime.sessions.gpu.slabs import Slab, SlabLayout
from xlm_runtime.sessions.gpu.splitting import join, split
from xlm_runtime.sessions.session import Array


class GpuSession:
    """A graph in an engine on a device; see `Session`.

    Calls from several threads run one after the other. Buffers are allocated once, for the largest sizes of the
    engine's profiles, and reused.

    Args:
        engine, device: both belong to the session from here on.
        buckets: pad calls to the sizes of `planning.bucket_size`, so that few different ones occur.
        graphs: most CUDA graphs to capture; 0 for an engine that captures by itself, or none at all.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """

    def __init__(self, engine: Engine, device: Device, *, buckets: bool, graphs: int) -> None:
        self.device = device
        self.pool = BlockPool(device)
        self.lock = RLock()
        self.past = tuple(tensor for tensor in engine.inputs if tensor.name.startswith(PAST))
        outputs = {tensor.name: tensor for tensor in engine.outputs}
        self._present = [outputs[tensor.name.replace(PAST, PRESENT, 1)] for tensor in self.past]
        self._engine = engine
        self._buckets = buckets
        self._profiles = engine.profiles or (ANY_SHAPE,)
        self._graphs = GraphPool(engine, device, graphs) if graphs else None
        self._enqueue: Callable[[Call], None] = self._graphs.enqueue if self._graphs else engine.enqueue
        weakref.finalize(self, _close, self._graphs, engine, device)
        self._in = Arena(device, buffer_size(_small(engine.inputs), engine.profiles))
        self._out = Arena(device, buffer_size(_small(engine.outputs), engine.profiles))

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self._engine.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self._engine.outputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Session.run`. A batch that is too large for every profile runs in parts.

        With the `inputs` of a `DeviceCache` the `present.*` stay on the device too, for its `append`.

        Raises:
            EngineError: wrong shapes, sizes that no profile takes, or the device failed.
            OutOfMemoryError: the device has too little memory.
        """
        tensors = self._engine.inputs
        held = {name: value for name, value in inputs.items() if isinstance(value, DeviceArray)}
        dims = read_dims(tensors, {name: tuple(value.shape) for name, value in inputs.items()})
        if dims.get("batch", 0) > 1 and not held and not any(profile.takes(dims, {}) for profile in self._profiles):
            parts = [(self.run(part), places) for part, places in split(tensors, inputs, dims)]
            return join(self._engine.outputs, parts, self.output_names)
        with self.lock:
            self.device.activate()
            return self._run(inputs, dims, held)

    def create_cache(self, rows: int, max_length: int) -> DeviceCache:
        """A cache on the device for `rows` sequences of at most `max_length` tokens."""
        return DeviceCache.create(self, rows, max_length)

    def cache_layout(self, rows: int, tokens: int) -> SlabLayout:
        """Room for `rows` sequences of `tokens` tokens or more, in sizes that a step of one token takes."""
        dims = {"batch": rows, "sequence": 1, "kept": rows, "past_sequence": tokens}
        # where no step takes so many, they are the last ones: there is no step to come, or it says what it takes
        with suppress(EngineError):
            dims = bucket_dims(dims, choose_profile(self._profiles, dims, self._work))
        return self._layout(dims["batch"], dims["past_sequence"])

    def _layout(self, rows: int, capacity: int) -> SlabLayout:
        heads, head_dim = heads_and_size(self.past[0])
        return SlabLayout(len(self.past), rows, heads, capacity, head_dim * self.past[0].storage.itemsize)

    def _work(self, dims: Dims) -> int:
        return sum(tensor.nbytes(dims) for tensor in self._engine.inputs)

    def _run(self, inputs: Mapping[str, Any], dims: Dims, held: Mapping[str, DeviceArray]) -> dict[str, Any]:
        slabs = {name: array.slab for name, array in held.items() if array.slab is not None}
        fixed: dict[str, int] = {}
        for slab in slabs.values():
            fixed = {"batch": slab.layout.rows, "past_sequence": slab.layout.capacity}
        profile = choose_profile(self._profiles, dims, self._work, fixed)
        bucket = bucket_dims(dims, profile, fixed) if self._buckets else {**profile.raised(dims), **fixed}

        sent = [tensor for tensor in self._engine.inputs if tensor.name not in slabs]
        arrays = {tensor.name: _host_array(inputs[tensor.name], tensor) for tensor in sent}
        addresses = self._send(sent, arrays, dims, bucket)
        addresses |= {name: slab.layout.address(slab.base, held[name].index) for name, slab in slabs.items()}

        staying = self._present if held else []
        back = [tensor for tensor in self._engine.outputs if tensor not in staying]
        regions, size = plan_buffer(back, bucket)
        self._out.reserve(size)
        addresses |= {name: self._out.address + region.offset for name, region in regions.items()}
        present: dict[str, DeviceArray] = {}
        if staying:
            layout = self._layout(bucket["batch"], bucket["sequence"])
            block = Block(self.pool, layout.nbytes, zero=False)
            for i, tensor in enumerate(staying):
                present[tensor.name] = DeviceArray(tensor.shape(dims), Slab(block.address, layout), i, block)
                addresses[tensor.name] = layout.address(block.address, i)

        self._enqueue(
            Call(
                profile.index,
                _bindings(self._engine.inputs, addresses, bucket),
                _bindings(self._engine.outputs, addresses, bucket),
            )
        )
        return {**self._receive(back, regions, dims, bucket), **present}

    def _send(self, tensors: Sequence[Tensor], arrays: Mapping[str, Array], dims: Dims, bucket: Dims) -> dict[str, int]:
        """Copy inputs to the device, all at once; their addresses."""
        regions, size = plan_buffer(tensors, bucket)
        self._in.reserve(size)
        self._in.reserve_host(size)
        for tensor in tensors:
            region = regions[tensor.name]
            fill(tensor, arrays[tensor.name], dims, bucket, self._in.host[region.offset :][: region.size])
        self.device.copy_in(self._in.address, self._in.host[:size])
        return {name: self._in.address + region.offset for name, region in regions.items()}

    def _receive(
        self, tensors: Sequence[Tensor], regions: Mapping[str, Region], dims: Dims, bucket: Dims
    ) -> dict[str, Array]:
        """Copy outputs from the device, but not the padded rows behind, and wait for them."""
        self._out.reserve_host(max((region.offset + region.size for region in regions.values()), default=0))
        for tensor in tensors:
            first = next(iter(tensor.axes), 1)
            region = regions[tensor.name]
            size = region.size // max(size_of(first, bucket), 1) * size_of(first, dims)
            self.device.copy_out(self._out.host[region.offset :][:size], self._out.address + region.offset)
        self.device.synchronize()
        found = {}
        for tensor in tensors:
            region = regions[tensor.name]
            found[tensor.name] = cut(tensor, self._out.host[region.offset :][: region.size], dims, bucket)
        return found


def _host_array(value: Any, tensor: Tensor) -> Array:
    return np.zeros(value.shape, tensor.storage) if isinstance(value, DeviceArray) else value


def _bindings(tensors: Sequence[Tensor], addresses: Mapping[str, int], dims: Dims) -> tuple[Binding, ...]:
    return tuple(Binding(tensor.name, addresses[tensor.name], tensor.shape(dims)) for tensor in tensors)


def _small(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All but keys and values, which have memory of their own."""
    return [tensor for tensor in tensors if not tensor.name.startswith((PAST, PRESENT))]


def _close(graphs: GraphPool | None, engine: Engine, device: Device) -> None:
    with suppress(EngineError):  # a device that failed for good gives nothing back
        if not device.closed:
            device.activate()
            device.synchronize()
            if graphs is not None:
                graphs.clear()
        engine.close()
        device.close()
