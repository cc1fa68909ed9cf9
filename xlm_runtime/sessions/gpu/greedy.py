"""Greedy search that feeds itself: the device takes each step's best tokens for the next, and the host reads behind it.

A graph with a static cache gives the inputs of the next step. One copy on the device brings them there, another brings
the tokens to the host, into one of two slots, and an event says when they have come. The next step is enqueued before
the tokens of the last one are read, so the device never waits for the host.

The step's outputs are not bound to its inputs' own addresses, which would save the copy: an executor that does not know
of it may compute `next_seqlens_k` before attention reads `seqlens_k`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np

from xlm_runtime.sessions.gpu.cache import Block, CacheSpace, Slab
from xlm_runtime.sessions.gpu.calls import CallPlan, Planner
from xlm_runtime.sessions.gpu.executor import Call
from xlm_runtime.sessions.gpu.memory import Arena, Bytes, Copy2D, Device, Event
from xlm_runtime.sessions.gpu.padding import Placement, fill
from xlm_runtime.sessions.gpu.planning import aligned
from xlm_runtime.sessions.gpu.static_cache import StaticDeviceCache
from xlm_runtime.sessions.session import Array
from xlm_runtime.tasks import FED_BACK, NEXT, SEQLENS_K


@dataclass(frozen=True, eq=False)
class _Slots:
    """Page-locked memory for the tokens of two steps, and what says that they are there."""

    tokens: tuple[Bytes, Bytes]
    ready: tuple[Event, Event]

    @classmethod
    def create(cls, device: Device, nbytes: int) -> _Slots:
        return cls((device.host_buffer(nbytes), device.host_buffer(nbytes)), (device.event(), device.event()))


class GreedyLoop:
    """The loops of one session; several may be under way at once, each with memory of its own.

    Args:
        space: the session, whose lock is held while something is enqueued.
        enqueue: runs a call.
        sent, back: the session's buffers, which hold the prompts.
    """

    def __init__(
        self, space: CacheSpace, planner: Planner, enqueue: Callable[[Call], None], sent: Arena, back: Arena
    ) -> None:
        self._space, self._planner, self._enqueue = space, planner, enqueue
        self._in, self._out = sent, back
        self._idle: list[_Slots] = []

    def steps(self, inputs: Mapping[str, Array], max_length: int, steps: int) -> Generator[Array, None, None]:
        """(rows,) int64, the best token behind each row, and then behind each row with it, `steps` times in all.

        Rows that have come to an end go on as the others do. Whoever takes no more ends it; a step that is under way
        then is for nothing.

        Args:
            inputs: the graph's inputs for the prompts but for keys and values, one of `logit_positions` for each row.
            max_length: most tokens of a row, those of all steps but the last included.

        Raises:
            InputError: more tokens than `max_length`.
            EngineError: the executor or the device failed.
            OutOfMemoryError: the device has too little memory.
        """
        rows = len(inputs["input_ids"])
        device = self._space.device
        with self._space.lock:
            device.activate()
            layout = self._space.cache_layout(rows, max_length)
            cache = StaticDeviceCache.create(self._space, layout.rows, max_length)
            cache.grown(_with_rows(inputs, layout.rows)[SEQLENS_K] + steps)  # whether all of them have room
            slots = self._take_slots(layout.rows * 8)
        try:
            with self._space.lock:
                device.activate()
                step = _Step(self._space, self._planner, cache, inputs)
                self._begin(_with_rows(inputs, layout.rows), cache, step)
                step.read_tokens(device, slots, 0)
                if steps > 1:
                    self._go_on(step, slots, 1)
                device.wait(slots.ready[0])  # the session's buffers are free again
            for i in range(steps):
                if 0 < i < steps - 1:
                    with self._space.lock:
                        device.activate()
                        self._go_on(step, slots, i + 1)
                device.wait(slots.ready[i % 2])
                yield slots.tokens[i % 2][: rows * 8].view(np.int64).copy()
        finally:
            self._idle.append(slots)  # what is under way into them comes before what their next user enqueues

    def _take_slots(self, nbytes: int) -> _Slots:
        for slots in self._idle:
            if slots.tokens[0].nbytes >= nbytes:
                self._idle.remove(slots)
                return slots
        return _Slots.create(self._space.device, nbytes)

    def _begin(self, inputs: Mapping[str, Array], cache: StaticDeviceCache, step: _Step) -> None:
        """Enqueue the prompts, behind which all is in place for the first step."""
        device, plan = self._space.device, self._planner.plan({**inputs, **cache.inputs})
        sent = aligned(plan.sent_bytes)
        self._in.reserve(sent)
        self._in.reserve_host(sent + step.plan.sent_bytes)
        self._out.reserve(plan.back_bytes)
        for place in plan.sent:
            fill(place, inputs[place.tensor.name], self._in.host)
        device.copy_in(self._in.address, self._in.host[: plan.sent_bytes])
        host = self._in.host[sent : sent + step.plan.sent_bytes]
        for place in step.plan.sent:
            fill(place, step.inputs[place.tensor.name], host)
        device.copy_in(step.sent, host)
        self._enqueue(self._planner.call(plan, self._in.address, self._out.address, cache.slab, cache.slab))
        step.feed_back(device, plan, self._out.address)

    def _go_on(self, step: _Step, slots: _Slots, number: int) -> None:
        """Enqueue a step, and what brings its tokens to the host and to the next one."""
        self._enqueue(step.call)
        step.feed_back(self._space.device, step.plan, step.back)
        step.read_tokens(self._space.device, slots, number)


class _Step:
    """A step of one token a row, at addresses of its own.

    Attributes:
        inputs: what it is given at first; of `FED_BACK` nothing.
        sent, back: where its inputs and outputs lie.
    """

    def __init__(
        self, space: CacheSpace, planner: Planner, cache: StaticDeviceCache, prompts: Mapping[str, Array]
    ) -> None:
        rows = cache.rows
        self.inputs: dict[str, Array] = {}
        for name, value in _with_rows(prompts, rows).items():
            column = value[:, :1] if value.ndim == 2 else value
            self.inputs[name] = np.zeros_like(column) if name in FED_BACK else column
        self.inputs["logit_positions"] = np.arange(rows)
        self.plan = planner.plan({**self.inputs, **cache.inputs})
        self._block = Block(space.pool, aligned(self.plan.sent_bytes) + self.plan.back_bytes, zero=False)
        self.sent = self._block.address
        self.back = self.sent + aligned(self.plan.sent_bytes)
        self.call = planner.call(self.plan, self.sent, self.back, cache.slab, cache.slab)
        self._cache = cache  # whose memory the call writes into

    def feed_back(self, device: Device, plan: CallPlan, back: int) -> None:
        """Copy what a call of `plan` gave at the address `back` to the inputs of this step."""
        given, taken = _places(plan.back, NEXT), _places(self.plan.sent)
        copies: list[tuple[int, int, int]] = []  # from, to, bytes
        for name in FED_BACK:
            source, target = back + given[name].region.offset, self.sent + taken[name].region.offset
            size = taken[name].region.size
            if copies and source - copies[-1][0] == target - copies[-1][1]:  # they lie behind each other in both
                first, to, _ = copies.pop()
                copies.append((first, to, source + size - first))
            else:
                copies.append((source, target, size))
        for source, target, size in copies:
            device.copy(Copy2D(target, size, source, size, size, 1))

    def read_tokens(self, device: Device, slots: _Slots, number: int) -> None:
        """Copy the tokens that this step is to begin with to the host, as those of step `number`."""
        place = _places(self.plan.sent)[FED_BACK[0]]
        target = slots.tokens[number % 2][: place.region.size]
        device.copy_out(target, self.sent + place.region.offset)
        device.record(slots.ready[number % 2])


def _places(places: tuple[Placement, ...], prefix: str = "") -> dict[str, Placement]:
    return {place.tensor.name.removeprefix(prefix): place for place in places}


def _with_rows(inputs: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """As many rows as the executor computes: those that are wanting are the first one again."""
    count, columns = inputs["input_ids"].shape
    index = np.r_[np.arange(count), np.zeros(rows - count, np.int64)]
    places = np.arange(rows) * columns + (inputs["logit_positions"] % columns)[index]
    return {name: places if name == "logit_positions" else value[index] for name, value in inputs.items()}
