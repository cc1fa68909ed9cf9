"""CUDA graphs: a call that comes again is captured once and then replayed, which saves launching each kernel."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.executor import Call, Execution, Executor
from xlm_runtime.sessions.gpu.memory import CapturedGraph, Device


@dataclass
class _Entry:
    execution: Execution | None = None
    graph: CapturedGraph | None = None


class GraphPool:
    """Runs calls, from their third time on by replaying a graph.

    The first time a call runs as it is, since shapes that come once are not worth a graph. The second time it gets an
    execution state of its own and runs once in it, because an executor's first run after a change of shapes does work
    that a capture must not hold. The third time it is captured. Addresses and shapes are a part of a call, so a
    graph is never replayed for others.

    Args:
        most: graphs kept; the one that was used longest ago gives way.
    """

    def __init__(self, executor: Executor, device: Device, most: int) -> None:
        self._executor = executor
        self._device = device
        self._most = most
        self._entries: OrderedDict[Call, _Entry] = OrderedDict()

    def enqueue(self, call: Call) -> None:
        entry = self._entries.get(call)
        if entry is None:
            self._executor.enqueue(call)
            self._entries[call] = _Entry()
            if len(self._entries) > self._most:
                self._release(self._entries.popitem(last=False)[1])
            return
        self._entries.move_to_end(call)
        if entry.graph is not None:
            self._device.replay(entry.graph)
        elif entry.execution is None:
            entry.execution = self._executor.prepare(call)
            entry.execution.enqueue()
        elif entry.execution.capturable:
            entry.graph = self._capture(entry.execution)
            self._device.replay(entry.graph)
        else:
            entry.execution.enqueue()

    def clear(self) -> None:
        while self._entries:
            self._release(self._entries.popitem()[1])

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
