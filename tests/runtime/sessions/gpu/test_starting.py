"""Calls that are started and waited for later, on a device that does nothing before it is waited for."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.fake import FakeDevice
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.sessions.gpu.test_greedy import Opened
from xlm_runtime import GenerationOptions, pipeline
from xlm_runtime.errors import EngineError
from xlm_runtime.generation.decoder import Prompt
from xlm_runtime.generation.search import make_strategy, search
from xlm_runtime.generation.static_decoder import StaticDecoder
from xlm_runtime.sessions.gpu.executor import Call
from xlm_runtime.sessions.gpu.planning import Tensor
from xlm_runtime.sessions.gpu.session import GpuSession


class LateDevice(FakeDevice):
    """Does what is enqueued when it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: list[Callable[[], None]] = []
        self.waits = 0

    def synchronize(self) -> None:
        super().synchronize()
        self.waits += 1
        steps, self.queue = self.queue, []
        for step in steps:
            step()

    def enqueue(self, step: Callable[[], None]) -> None:
        self.queue.append(step)

    _do = enqueue


class Doubling:
    """y = 2 x; fails on the device for -1."""

    name = "doubling"
    inputs = (Tensor("x", "int64", ("batch",)),)
    outputs = (Tensor("y", "int64", ("batch",)),)
    profiles = ()

    def __init__(self, device: LateDevice) -> None:
        self._device = device

    def enqueue(self, call: Call) -> None:
        (x,), (y,) = call.inputs, call.outputs

        def compute() -> None:
            values = self._device.bytes_at(x.address, 8 * x.shape[0]).view(np.int64)
            if -1 in values:
                raise EngineError("the device failed")
            self._device.bytes_at(y.address, 8 * y.shape[0]).view(np.int64)[:] = 2 * values

        self._device.enqueue(compute)

    def prepare(self, call: Call) -> None: ...

    def close(self) -> None: ...


@pytest.fixture
def device() -> LateDevice:
    return LateDevice()


@pytest.fixture
def session(device: LateDevice) -> GpuSession:
    return GpuSession(Doubling(device), device, buckets=False, graphs=0)


def numbers(*values: int) -> dict[str, np.ndarray]:
    return {"x": np.array(values, np.int64)}


def test_the_host_goes_on_until_it_waits(session: GpuSession, device: LateDevice) -> None:
    session.run(numbers(0, 0))  # buffers grow
    before = device.waits
    wait = session.start(numbers(1, 2))
    assert device.queue
    assert device.waits == before
    assert wait()["y"].tolist() == [2, 4]
    assert wait()["y"].tolist() == [2, 4]
    assert session.run(numbers(3))["y"].tolist() == [6]


def test_the_next_call_keeps_the_last_ones_outputs(session: GpuSession) -> None:
    waits = [session.start(numbers(*range(n))) for n in (1, 5, 3, 1000, 2)]
    found = [wait()["y"].tolist() for wait in reversed(waits)]
    assert found == [[2 * i for i in range(n)] for n in (2, 1000, 3, 5, 1)]


def test_what_nobody_waits_for_is_done_before_the_next(session: GpuSession, device: LateDevice) -> None:
    session.start(numbers(1))
    assert session.run(numbers(2))["y"].tolist() == [4]
    assert not device.queue


def test_a_failure_is_that_of_its_call(session: GpuSession) -> None:
    failing, wait = session.start(numbers(-1)), session.start(numbers(4))
    assert wait()["y"].tolist() == [8]
    for _ in range(2):
        with pytest.raises(EngineError, match="the device failed"):
            failing()


def test_an_interrupted_wait_can_be_taken_up(session: GpuSession, device: LateDevice) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    wait = session.start(numbers(1))
    steps, device.queue = device.queue, [interrupt]
    with pytest.raises(KeyboardInterrupt):
        wait()
    device.queue = steps
    assert wait()["y"].tolist() == [2]


def test_threads_start_calls_as_they_like(session: GpuSession) -> None:
    def call(i: int) -> bool:
        waits = [session.start(numbers(i, k)) for k in range(5)]
        return [wait()["y"].tolist() for wait in waits] == [[2 * i, 2 * k] for k in range(5)]

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(call, range(40)))


def test_batches_overlap_on_a_gpu_alone(bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime) -> None:
    folder = bundles("text-classification")
    assert pipeline("text-classification", folder, "cuda").batching.reads_ahead
    assert not pipeline("text-classification", folder, "cpu").batching.reads_ahead


def test_greedy_search_leaves_a_call_that_is_under_way_its_outputs() -> None:
    opened, fed = Opened(FakeRuntime()), []

    def feed(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed.append((inputs, opened.session.run(inputs)))
        return fed[-1][1]

    opened.feed = feed
    prompts, others = [Prompt([1, 2, 3], 0), Prompt([4], 1)], [Prompt([6, 5, 2], 2), Prompt([3, 3], 0)]
    opened.tokens(others, 5)  # buffers grow
    strategy = make_strategy(prompts, GenerationOptions(), [], lambda ids: None)
    next(search(StaticDecoder(opened, 20), prompts, strategy))
    inputs, expected = fed[0]
    wait = opened.session.start(inputs)
    assert opened.tokens(others, 5) == opened.expected(others, 5)
    np.testing.assert_array_equal(wait()["logits"], expected["logits"])
