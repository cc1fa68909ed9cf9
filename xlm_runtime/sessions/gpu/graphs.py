"""CUDA graphs: a call that comes again is captured once and then replayed, which saves launching each kernel."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.executor import Call, Execution, Executor
from xlm_runtime.sessions.gpu.memory import CapturedGraph, Device

# Calls counted for each graph that may be there: enough to see that one of many shapes comes again.
_SEEN = 8
# Uses are halved after so many calls for each graph that may be there, so that what was used often and no longer is
# gives way.
_PERIOD = 16


@dataclass
class _Entry:
    execution: Execution
    uses: int
    graph: CapturedGraph | None = None


class GraphPool:
    """Runs calls, and those that come often by replaying a graph.

    The first time a call runs as it is, since shapes that come once are not worth a graph. The second time it gets a
    place in the pool, and an execution state of its own, and runs once in it, because an executor's first run after a
    change of shapes does work that a capture must not hold. The third time it is captured. Addresses and shapes are a
    part of a call, so a graph is never replayed for others.

    Where all places are taken, a call gets the place of the one that was used least, once it was itself used more than
    twice as often. So shapes that come once or in turn never take the place of one that comes often.

    Args:
        most: graphs kept.
    """

    def __init__(self, executor: Executor, device: Device, most: int) -> None:
        self._executor = executor
        self._device = device
        self._most = most
        self._entries: dict[Call, _Entry] = {}
        self._seen: OrderedDict[Call, int] = OrderedDict()  # uses of calls without a place; the last one used behind
        self._runs = 0

    def enqueue(self, call: Call) -> None:
        self._runs += 1
        if self._runs >= _PERIOD * self._most:
            self._age()
        entry = self._entries.get(call)
        if entry is None:
            self._enqueue_new(call)
            return
        entry.uses += 1
        if entry.graph is not None:
            self._device.replay(entry.graph)
        elif entry.execution.capturable:
            entry.graph = self._capture(entry.execution)
            self._device.replay(entry.graph)
        else:
            entry.execution.enqueue()

    def clear(self) -> None:
        """Give all graphs back, and forget what was seen."""
        self._seen.clear()
        while self._entries:
            self._release(self._entries.popitem()[1])

    def _enqueue_new(self, call: Call) -> None:
        uses = self._seen.pop(call, 0) + 1
        if uses > 1 and self._make_room(uses):
            entry = _Entry(self._executor.prepare(call), uses)
            entry.execution.enqueue()
            self._entries[call] = entry
            return
        self._executor.enqueue(call)
        self._seen[call] = uses
        if len(self._seen) > _SEEN * self._most:
            self._seen.popitem(last=False)

    def _make_room(self, uses: int) -> bool:
        """Whether there is a place for a call that was used so often."""
        if len(self._entries) < self._most:
            return True
        least = min(self._entries, key=lambda call: self._entries[call].uses)
        if uses <= 2 * self._entries[least].uses:
            return False
        self._release(self._entries.pop(least))
        return True

    def _age(self) -> None:
        self._runs = 0
        for entry in self._entries.values():
            entry.uses //= 2
        for call in self._seen:
            self._seen[call] //= 2

    def _capture(self, execution: Execution) -> CapturedGraph:
        try:
            return self._device.capture(execution.enqueue)
        except EngineError as error:
            raise EngineError(
                f"'{self._executor.name}' cannot be captured in a CUDA graph: {error} Open it with cuda_graphs=False."
            ) from error

    def _release(self, entry: _Entry) -> None:
        if entry.graph is not None:
            self._device.synchronize()  # it may still run
            self._device.release(entry.graph)
