"""A session whose executor computes on a device: arrays go there, through one buffer, and only answers come back."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from threading import RLock
from typing import Any

import numpy as np

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.cache import (
    Block,
    DeviceArray,
    DeviceCache,
    Slab,
    SlabLayout,
    heads_and_size,
)
from xlm_runtime.sessions.gpu.calls import CallPlan, Planner
from xlm_runtime.sessions.gpu.executor import Call, Executor
from xlm_runtime.sessions.gpu.graphs import GraphPool
from xlm_runtime.sessions.gpu.greedy import GreedyLoop, TokenSlots
from xlm_runtime.sessions.gpu.memory import Arena, BlockPool, Device
from xlm_runtime.sessions.gpu.padding import cut, fill, join, split
from xlm_runtime.sessions.gpu.planning import Tensor, buffer_size
from xlm_runtime.sessions.gpu.static_cache import StaticDeviceCache
from xlm_runtime.sessions.session import Array
from xlm_runtime.tasks import PAST, PRESENT


class _Started:
    """A call that the device computes, and what came of it once it was waited for.

    Args:
        read: takes the outputs from the page-locked memory when the device is done.
    """

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self.read = read
        self.outputs: dict[str, Any] = {}
        self.error: Exception | None = None


class GpuSession:
    """A graph in an executor on a device; see `Session` and `StartingSession`.

    Calls from several threads run one after the other. One at a time is under way: before the next begins, whoever
    starts it waits for the last and keeps its outputs for those who ask. Buffers are allocated once, for the largest
    sizes of the executor's profiles, and reused.

    Args:
        executor, device: both belong to the session from here on.
        buckets: pad calls to the sizes of `planning.bucket_size`, so that few different ones occur.
        graphs: most CUDA graphs to capture; 0 for none.

    Raises:
        OutOfMemoryError: the device has too little memory.
    """

    def __init__(self, executor: Executor, device: Device, *, buckets: bool, graphs: int) -> None:
        self.device = device
        self.pool = BlockPool(device)
        self.lock = RLock()
        self._process = os.getpid()
        self._executor = executor
        self._planner = Planner(executor, buckets=buckets)
        self._graphs = GraphPool(executor, device, graphs) if graphs else None
        self._enqueue: Callable[[Call], None] = self._graphs.enqueue if self._graphs else executor.enqueue
        weakref.finalize(self, _close, self._graphs, executor, device)
        self._started: _Started | None = None  # whose arrays are in the buffers
        self._in = Arena(device, buffer_size(_small(executor.inputs), executor.profiles))
        self._out = Arena(device, buffer_size(_small(executor.outputs), executor.profiles))
        self._idle: list[TokenSlots] = []

    @property
    def past(self) -> tuple[Tensor, ...]:
        return self._planner.past

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self._executor.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(tensor.name for tensor in self._executor.outputs)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """See `Session.run`. A batch that is too large for every profile runs in parts.

        With the `inputs` of a `DeviceCache` the `present.*` stay on the device too, for its `append`. Those of a
        `StaticDeviceCache` are written in place.

        Raises:
            EngineError: wrong shapes, sizes that no profile takes, the device failed, or the process was forked.
            OutOfMemoryError: the device has too little memory.
        """
        return self.start(inputs)()

    def start(self, inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        """See `StartingSession.start`; otherwise as `run`."""
        self._check_process()
        with self.lock:
            self.device.activate()
            try:
                plan = self._planner.plan(inputs)
            except EngineError:
                dims = self._planner.dims(inputs)
                held = any(isinstance(value, DeviceArray) for value in inputs.values())
                if held or dims.get("batch", 1) < 2 or self._planner.fits(dims):
                    raise
                parts = [(self.run(part), places) for part, places in split(self._executor.inputs, inputs, dims)]
                outputs = join(self._executor.outputs, parts, self.output_names)
                return lambda: outputs
            started = self._started = _Started(self._enqueue_call(plan, inputs))
            return partial(self._wait, started)

    def _wait(self, started: _Started) -> dict[str, Any]:
        with self.lock:
            if started is self._started:
                self.device.activate()
                self._collect()
        if started.error is not None:
            raise started.error
        return started.outputs

    def _collect(self) -> None:
        """Wait for the call that is under way, if there is one. The lock is held."""
        started = self._started
        if started is not None:
            try:
                self.device.synchronize()
                started.outputs = started.read()
            except Exception as error:  # of the call that was started, which another thread may be about to
                started.error = error
            self._started = None

    def create_cache(self, rows: int, max_length: int) -> DeviceCache:
        """A cache on the device for `rows` sequences of at most `max_length` tokens."""
        return DeviceCache.create(self, rows, max_length)

    def create_static_cache(self, rows: int, max_length: int) -> StaticDeviceCache:
        """The memory of a static cache for `rows` sequences of at most `max_length` tokens.

        Raises:
            EngineError: the graph has none.
            OutOfMemoryError: the device has too little memory.
        """
        self._check_static()
        return StaticDeviceCache.create(self, rows, max_length)

    def greedy(self, inputs: Mapping[str, Array], max_length: int, steps: int) -> Generator[Array, None, None]:
        """Append the best token to each row, `steps` times, without waiting for the host; see `GreedyLoop.steps`.

        Raises:
            EngineError: the graph has no static cache; later as `run`.
        """
        self._check_process()
        self._check_static()
        loop = GreedyLoop(self, self._planner, self._enqueue, self._reserve, self._in, self._out, self._idle)
        return loop.steps(inputs, max_length, steps)

    def max_rows(self, prompt: int, length: int) -> int | None:
        """See `CachingSession`."""
        calls = ({"sequence": prompt, "past_sequence": 0}, {"sequence": 1, "past_sequence": length})
        rows = sorted({profile.high["batch"] for profile in self._executor.profiles}, reverse=True)
        fitting = (
            count
            for count in rows
            if all(self._planner.fits({"batch": count, "kept": count, **call}) for call in calls)
        )
        return next(fitting, 1) if rows else None

    def cache_layout(self, rows: int, tokens: int) -> SlabLayout:
        """Room for `rows` sequences of `tokens` tokens or more, in sizes that a step of one token takes."""
        dims = {"batch": rows, "sequence": 1, "kept": rows, "past_sequence": tokens}
        # where no step takes so many, they are the last ones: there is no step to come, or it says what it takes
        with suppress(EngineError):
            dims = self._planner.bucket(dims)
        return self._layout(dims["batch"], dims["past_sequence"])

    def _layout(self, rows: int, capacity: int) -> SlabLayout:
        heads, head_dim = heads_and_size(self.past[0])
        return SlabLayout(len(self.past), rows, heads, capacity, head_dim * self.past[0].storage.itemsize)

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise EngineError(
                f"This session was opened in the process {self._process}, and a GPU cannot be used on the other side "
                "of a fork; open the pipeline in the new process, or start it with multiprocessing's method 'spawn'."
            )

    def _check_static(self) -> None:
        if not self._planner.static:
            raise EngineError(
                f"'{self._executor.name}' has no static cache; `xlm-export optimize --target onnxruntime-cuda` makes a "
                "graph that has one, of a causal checkpoint's in half precision."
            )

    def _enqueue_call(self, plan: CallPlan, inputs: Mapping[str, Any]) -> Callable[[], dict[str, Any]]:
        """Put a call on the stream; what is returned reads its outputs once the device is done."""
        self._reserve(plan)
        for place, region in zip(plan.sent, plan.sent_views(self._in.host), strict=True):
            value = inputs[place.tensor.name]
            if isinstance(value, DeviceArray):  # an empty past
                value = np.zeros(value.shape, place.tensor.storage)
            fill(place, value, region)
        self.device.copy_in(self._in.address, self._in.host[: plan.sent_bytes])

        past = next((value for value in inputs.values() if isinstance(value, DeviceArray)), None)
        present = past if self._planner.static else None
        if past is not None and present is None:
            layout = self._layout(plan.bucket["batch"], plan.bucket["sequence"])
            block = Block(self.pool, layout.nbytes, zero=False)
            heads, head_dim = heads_and_size(self.past[0])
            shape = (plan.dims["batch"], heads, plan.dims["sequence"], head_dim)
            present = DeviceArray(shape, Slab(block.address, layout), block)
        call = self._planner.call(
            plan,
            self._in.address,
            self._out.address,
            None if past is None else past.slab,
            None if present is None else present.slab,
        )
        self._enqueue(call)
        for start, size in plan.pieces:
            self.device.copy_out(self._out.host[start : start + size], self._out.address + start)

        def read() -> dict[str, Any]:
            regions = plan.back_views(self._out.host)
            outputs: dict[str, Any] = {
                place.tensor.name: cut(place, region) for place, region in zip(plan.back, regions, strict=True)
            }
            if present is not None:
                outputs |= dict.fromkeys((tensor.name for tensor in self._planner.present), present)
            return outputs

        return read

    def _reserve(self, plan: CallPlan) -> None:
        """Make room for a call: the last one's outputs leave the buffers, which grow. Where one moves on the device, no
        graph will be asked for again."""
        self._collect()
        addresses = self._in.address, self._out.address
        self._in.reserve(plan.sent_bytes)
        self._in.reserve_host(plan.sent_bytes)
        self._out.reserve(plan.back_bytes)
        self._out.reserve_host(plan.back_bytes)
        if self._graphs is not None and addresses != (self._in.address, self._out.address):
            self._graphs.clear()


def _small(tensors: Sequence[Tensor]) -> list[Tensor]:
    """All but keys and values, which have memory of their own."""
    return [tensor for tensor in tensors if not tensor.name.startswith((PAST, PRESENT))]


def _close(graphs: GraphPool | None, executor: Executor, device: Device) -> None:
    with suppress(EngineError):  # a device that failed for good gives nothing back
        if not device.closed:
            device.activate()
            device.synchronize()
            if graphs is not None:
                graphs.clear()
        executor.close()
        device.close()
