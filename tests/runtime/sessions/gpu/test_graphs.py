"""The pool of CUDA graphs: what runs is what was asked for, and who keeps a place."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.sessions.gpu.fake import FakeDevice
from xlm_runtime.sessions.gpu.executor import Binding, Call, Execution
from xlm_runtime.sessions.gpu.graphs import GraphPool


class Noting:
    """An executor that notes what runs, and how; it refuses to be captured where nothing was run before."""

    name, inputs, outputs, profiles = "noting", (), (), ()

    def __init__(self, device: FakeDevice) -> None:
        self.ran: list[int] = []
        self.alive = 0
        self._device = device

    def enqueue(self, call: Call) -> None:
        self._device.enqueue(lambda: self.ran.append(number(call)))

    def prepare(self, call: Call) -> Execution:
        self.alive += 1
        return SimpleNamespace(capturable=True, enqueue=lambda: self.enqueue(call))

    def close(self) -> None: ...


def number(call: Call) -> int:
    return call.inputs[0].address


class Machine:
    def __init__(self, most: int) -> None:
        self.device = FakeDevice()
        self.executor = Noting(self.device)
        self.pool = GraphPool(self.executor, self.device, most)
        self.captured: Counter[int] = Counter()

    def run(self, shape: int) -> str:
        """Run a call, equal to and not the same as the last one of its shape; returns how it ran."""
        before = len(self.device.log)
        self.pool.enqueue(Call(0, (Binding("x", shape, (1,)),), ()))
        assert self.executor.ran[-1] == shape
        did = self.device.log[before:]
        self.captured[shape] += "capture" in did
        return "replay" if "replay" in did else "plain"

    def count(self, what: str) -> int:
        return self.device.log.count(what)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), max_size=400), st.integers(1, 4))
def test_every_call_runs_once_and_graphs_are_bounded(shapes: list[int], most: int) -> None:
    machine = Machine(most)
    for shape in shapes:
        machine.run(shape)
        assert machine.count("capture") - machine.count("release") <= most
    assert machine.executor.ran == shapes
    machine.pool.clear()
    assert machine.count("capture") == machine.count("release")


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(1, 6), st.integers(0, 30))
def test_a_hot_shape_keeps_its_graph_among_shapes_seen_once(data: st.DataObject, most: int, between: int) -> None:
    """Every so many calls it comes, first or after others have taken all places; then it is captured once."""
    machine = Machine(most)
    once = iter(range(1, 10_000))
    early = data.draw(st.integers(0, 3))
    for shape in range(-most, 0):  # those that were there before, a few times each
        for _ in range(early):
            machine.run(shape)
    ways = []
    for _ in range(60):
        ways.append(machine.run(0))
        for _ in range(data.draw(st.integers(0, min(between, 7 * most)))):
            machine.run(next(once))
    assert machine.captured[0] == 1
    first = ways.index("replay")
    assert first <= 2 + 2 * early
    assert set(ways[first:]) == {"replay"}


def test_shapes_in_turn_do_not_take_each_others_place() -> None:
    """One more of them than there are places: each is captured once, or never."""
    machine = Machine(4)
    for _ in range(200):
        for shape in range(5):
            machine.run(shape)
    assert sorted(machine.captured.values()) == [0, 1, 1, 1, 1]
    assert machine.count("release") == 0


def test_other_traffic_gets_the_places_in_time() -> None:
    machine = Machine(4)
    for shapes in ([0, 1, 2, 3] * 500, [4, 5, 6, 7] * 100):
        for shape in shapes:
            machine.run(shape)
    assert [machine.run(shape) for shape in range(4, 8)] == ["replay"] * 4
    assert machine.count("release") == 4
    assert machine.executor.alive == 8, "an execution state for each graph, and none for what only runs"
