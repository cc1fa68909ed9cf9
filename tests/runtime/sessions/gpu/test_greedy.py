"""Greedy search that feeds itself: the tokens of a plain loop, on a device that does everything as late as it may."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.remembering import RememberingModel
from xlm_runtime import EngineError, GenerationOptions, InputError
from xlm_runtime.generation.decoder import Prompt
from xlm_runtime.generation.search import make_strategy, search, search_greedily
from xlm_runtime.generation.static_decoder import StaticDecoder
from xlm_runtime.sessions.gpu.cuda_device import CudaDevice
from xlm_runtime.sessions.gpu.session import GpuSession

WORDS = 7
Prompts = list[Prompt]


class Opened:
    """A session of a remembering model, as decoders see it."""

    config: Any = SimpleNamespace(max_position_embeddings=200, pad_token_id=0, uses_langs=True)

    def __init__(self, runtime: FakeRuntime, seed: int = 0, captured: bool = True) -> None:
        runtime.late = True
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=runtime))
            device = CudaDevice(0, "this test", "gpu")
        self.runtime = runtime
        self.graph = RememberingModel(runtime, WORDS, seed)
        self.session = GpuSession(self.graph, device, buckets=captured, graphs=8 if captured else 0)
        self.feed, self.greedy = self.session.run, self.session.greedy
        self.create_static_cache = lambda rows, room=None: self.session.create_static_cache(rows, room or 200)

    def tokens(self, prompts: Prompts, steps: int, room: int | None = None) -> list[list[int]]:
        """The new tokens of each row."""
        room = room or max(map(len, prompts)) + steps
        return [list(row) for row in zip(*StaticDecoder(self, room).greedy(prompts, steps), strict=True)]

    def expected(self, prompts: Prompts, steps: int) -> list[list[int]]:
        return [self.graph.continued(prompt.input_ids, prompt.lang_id, steps) for prompt in prompts]


def drawn(rng: np.random.Generator, rows: int) -> Prompts:
    return [Prompt(rng.integers(0, WORDS, rng.integers(1, 20)).tolist(), int(rng.integers(0, 3))) for _ in range(rows)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 5), steps=st.integers(1, 12), captured=st.booleans())
def test_tokens_are_those_of_a_plain_loop(seed: int, rows: int, steps: int, captured: bool) -> None:
    opened = Opened(FakeRuntime(), seed, captured)
    rng = np.random.default_rng(seed)
    for _ in range(3):
        prompts = drawn(rng, rows)
        assert opened.tokens(prompts, steps) == opened.expected(prompts, steps)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), rows=st.integers(1, 4), ends=st.sets(st.integers(0, WORDS - 1), max_size=2))
def test_rows_end_where_they_end_alone(seed: int, rows: int, ends: set[int]) -> None:
    opened, prompts = Opened(FakeRuntime(), seed), drawn(np.random.default_rng(seed), rows)
    most = 15

    def ending(ids: list[int]) -> str | None:
        return "eos" if ids[-1] in ends else "length" if len(ids) == most else None

    options = GenerationOptions(max_new_tokens=most)
    room = max(map(len, prompts)) + most
    strategy = make_strategy(prompts, options, [], ending)
    with_logits = [[list(row) for row in step] for step in search(StaticDecoder(opened, room), prompts, strategy)]
    fed = list(search_greedily(StaticDecoder(opened, room), prompts, most, ending))
    assert fed == with_logits, "step by step"
    for (sequence,), ids in zip(fed[-1], opened.expected(prompts, most), strict=True):
        assert sequence.ending is not None
        assert sequence.new_ids == ids[: len(sequence.new_ids)]


def test_a_step_is_one_launch_and_two_copies() -> None:
    opened = Opened(FakeRuntime())
    prompts = drawn(np.random.default_rng(0), 3)
    for _ in range(2):
        opened.tokens(prompts, 10)
    counts = []
    for steps in (10, 11):
        del opened.runtime.calls[:]
        opened.tokens(prompts, steps, room=60)
        counts.append({name: opened.runtime.calls.count(name) for name in set(opened.runtime.calls)})
    more = {name: count - counts[0].get(name, 0) for name, count in counts[1].items()}
    assert {name: count for name, count in more.items() if count and name != "cudaSetDevice"} == {
        "cudaGraphLaunch": 1,
        "cudaMemcpy2DAsync": 1,
        "cudaMemcpyAsync": 1,
        "cudaEventRecord": 1,
        "cudaEventSynchronize": 1,
    }
    assert "cudaMalloc" not in counts[1]
    assert "cudaHostAlloc" not in counts[1]


def test_a_step_with_logits_is_one_copy_each_way() -> None:
    opened = Opened(FakeRuntime())
    decoder = StaticDecoder(opened, 40)
    decoder.start(drawn(np.random.default_rng(0), 3))
    del opened.runtime.calls[:]
    decoder.step([0, 1, 2], [1, 2, 3])
    assert opened.runtime.calls.count("cudaMemcpyAsync") == 2
    assert "cudaMemcpy2DAsync" not in opened.runtime.calls, "nothing moves"
    decoder.step([1, 1, 0], [1, 2, 3])
    assert opened.runtime.calls.count("cudaMemcpyAsync") == 4
    assert opened.runtime.calls.count("cudaMemcpy2DAsync") == 3, "rows change their places on the device"


def test_reordered_rows_take_two_slabs_in_turn() -> None:
    opened = Opened(FakeRuntime())
    prompts = drawn(np.random.default_rng(1), 2)
    decoder = StaticDecoder(opened, 60)
    rows = [(prompt.input_ids, prompt.lang_id) for prompt in prompts]
    decoder.start(prompts)
    rng = np.random.default_rng(2)
    memory = []
    for _ in range(12):
        parents, tokens = rng.integers(0, len(rows), 4).tolist(), rng.integers(0, WORDS, 4).tolist()
        rows = [([*rows[parent][0], token], rows[parent][1]) for parent, token in zip(parents, tokens, strict=True)]
        logits = decoder.step(parents, tokens)
        for row, (ids, lang) in zip(logits, rows, strict=True):
            np.testing.assert_array_equal(row, opened.graph.scores(ids, range(len(ids)), lang))
        memory.append(opened.runtime.used)
    assert len({*memory[3:]}) == 1
    assert opened.runtime.calls.count("cudaGraphLaunch") >= 6, "captured graphs come back"


@pytest.mark.parametrize("taken", [0, 1, 4])
def test_whoever_stops_can_go_on(taken: int) -> None:
    opened = Opened(FakeRuntime())
    prompts = drawn(np.random.default_rng(3), 3)

    def interrupted() -> None:
        with closing(StaticDecoder(opened, 60).greedy(prompts, 20)) as steps:
            for i, _ in enumerate(steps):
                if i == taken:
                    raise KeyboardInterrupt

    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert opened.tokens(prompts, 9) == opened.expected(prompts, 9)
    memory = opened.runtime.used, len(opened.runtime.pinned), len(opened.runtime.events)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (opened.runtime.used, len(opened.runtime.pinned), len(opened.runtime.events)) == memory
    opened.runtime.failing["cudaEventSynchronize"] = type(opened.runtime).cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(EngineError, match="the fake says so"):
        opened.tokens(prompts, 9)
    opened.runtime.failing.clear()
    assert opened.tokens(prompts, 9) == opened.expected(prompts, 9)


def test_generations_side_by_side() -> None:
    opened = Opened(FakeRuntime())
    one, other = (drawn(np.random.default_rng(seed), 2) for seed in (4, 5))
    first = StaticDecoder(opened, 60).greedy(one, 10)
    second = StaticDecoder(opened, 60).greedy(other, 10)
    pairs = list(zip(first, second, strict=True))
    for i, prompts in enumerate((one, other)):
        assert [list(row) for row in zip(*(pair[i] for pair in pairs), strict=True)] == opened.expected(prompts, 10)


def test_threads() -> None:
    opened = Opened(FakeRuntime())

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for steps in (5, 9, 1):
            prompts = drawn(rng, int(rng.integers(1, 4)))
            assert opened.tokens(prompts, steps) == opened.expected(prompts, steps)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(12)))


def test_what_does_not_fit_is_refused_before_it_runs() -> None:
    opened = Opened(FakeRuntime())
    prompts = [Prompt([1, 2, 3]), Prompt([1])]
    assert opened.tokens(prompts, 5, room=7) == opened.expected(prompts, 5), "the last token is not kept"
    del opened.runtime.calls[:]
    message = "made for at most 6 tokens a row, and these would be 7.* static and does not grow"
    with pytest.raises(InputError, match=message):
        opened.tokens(prompts, 5, room=6)
    assert "cudaMemcpyAsync" not in opened.runtime.calls
    decoder = StaticDecoder(opened, 4)
    decoder.start(prompts)
    decoder.step([0, 1], [0, 0])
    del opened.runtime.calls[:]
    with pytest.raises(InputError, match="made for at most 4 tokens a row, and these would be 5"):
        decoder.step([0, 1], [0, 0])
    assert "cudaMemcpyAsync" not in opened.runtime.calls
