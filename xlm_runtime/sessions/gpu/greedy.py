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

from xlm_runtime.sessions.gpu.cache import Block, CacheSpace
from xlm_runtime.sessions.gpu.calls import CallPlan, Planner
from xlm_runtime.sessions.gpu.executor import Call
from xlm_runtime.sessions.gpu.memory import Arena, Bytes, Copy2D, Device, Event
from xlm_runtime.sessions.gpu.padding import Placement, fill
from xlm_runtime.sessions.gpu.planning import aligned
from xlm_runtime.sessions.gpu.static_cache import StaticDeviceCache
from xlm_runtime.sessions.session import Array
from xlm_runtime.tasks import FED_BACK, NEXT, SEQLENS_K


@dataclass(frozen=True, eq=False)
class TokenSlots:
    """Page-locked memory for the tokens of two steps, and what says that they are there."""

    tokens: tuple[Bytes, Bytes]
    ready: tuple[Event, Event]

    @classmethod
    def create(cls, device: Device, nbytes: int) -> TokenSlots:
        return cls((device.host_buffer(nbytes), device.host_buffer(nbytes)), (device.event(), device.event()))


@dataclass(frozen=True)
class GreedyLoop:
    """The loop, with what it needs of a session; several may be under way at once, each with memory of its own.

    Args:
        space: the session, whose lock is held while something is enqueued.
        enqueue: runs a call.
        reserve: makes room for a plan's arrays in `sent` and `back`, the session's buffers, which hold the prompts.
        idle: slots that no loop is using.
    """

    space: CacheSpace
    planner: Planner
    enqueue: Callable[[Call], None]
    reserve: Callable[[CallPlan], None]
    sent: Arena
    back: Arena
    idle: list[TokenSlots]

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
        device = self.space.device
        with self.space.lock:
            device.activate()
            layout = self.space.cache_layout(rows, max_length)
            cache = StaticDeviceCache.create(self.space, layout.rows, max_length)
            cache.grown(_with_rows(inputs, layout.rows)[SEQLENS_K] + steps)  # whether all of them have room
            slots = self._take_slots(layout.rows * 8)
        try:
            with self.space.lock:
                device.activate()
                step = _Step(self.space, self.planner, cache, inputs)
                self._begin(_with_rows(inputs, layout.rows), cache, step)
                step.read_tokens(device, slots, 0)
                if steps > 1:
                    self._go_on(step, slots, 1)
                device.wait(slots.ready[0])  # the session's buffers are free again
            for i in range(steps):
                if 0 < i < steps - 1:
                    with self.space.lock:
                        device.activate()
                        self._go_on(step, slots, i + 1)
                device.wait(slots.ready[i % 2])
                yield slots.tokens[i % 2][: rows * 8].view(np.int64).copy()
        finally:
            self.idle.append(slots)  # what is under way into them comes before what their next user enqueues

    def _take_slots(self, nbytes: int) -> TokenSlots:
        for slots in self.idle:
            if slots.tokens[0].nbytes >= nbytes:
                self.idle.remove(slots)
                return slots
        return TokenSlots.create(self.space.device, nbytes)

    def _begin(self, inputs: Mapping[str, Array], cache: StaticDeviceCache, step: _Step) -> None:
        """Enqueue the prompts, behind which all is in place for the first step."""
        device, plan = self.space.device, self.planner.plan({**inputs, **cache.inputs})
        end = aligned(plan.sent_bytes)
        self.reserve(plan)
        self.sent.reserve_host(end + step.plan.sent_bytes)
        host = self.sent.host[end : end + step.plan.sent_bytes]
        for each, arrays, buffer in ((plan, inputs, self.sent.host), (step.plan, step.inputs, host)):
            for place, region in zip(each.sent, each.sent_views(buffer), strict=True):
                fill(place, arrays[place.tensor.name], region)
        device.copy_in(self.sent.address, self.sent.host[: plan.sent_bytes])
        device.copy_in(step.sent, host)
        self.enqueue(self.planner.call(plan, self.sent.address, self.back.address, cache.slab, cache.slab))
        step.feed_back(device, plan, self.back.address)

    def _go_on(self, step: _Step, slots: TokenSlots, number: int) -> None:
        """Enqueue a step, and what brings its tokens to the host and to the next one."""
        self.enqueue(step.call)
        step.feed_back(self.space.device, step.plan, step.back)
        step.read_tokens(self.space.device, slots, number)


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

    def read_tokens(self, device: Device, slots: TokenSlots, number: int) -> None:
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
