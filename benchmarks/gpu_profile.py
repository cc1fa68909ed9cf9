"""Where the time of a call on a GPU goes, `python -m benchmarks.gpu_profile BUNDLE`: for a text classification bundle.

Calls of one pipeline one after the other, each with ids or texts of its own, in milliseconds (the least and the
median): ids to logits; the captured graph alone, replayed and waited for; texts to answers, with the host reading ahead
and without; tokenising alone; and what Python's profiler says of each. Unlike the suite, no other contender computes in
between, so caches and clocks are those of a busy service.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.gpu import mixed
from benchmarks.texts import TextSampler
from xlm_runtime import GpuOptions, pipeline
from xlm_runtime.sessions.gpu.cuda_device import CudaDevice
from xlm_runtime.sessions.gpu.memory import CapturedGraph

SHAPES: dict[str, Callable[[np.random.Generator], list[int]]] = {
    "1x16": lambda rng: [16],
    "1x128": lambda rng: [128],
    "8x128": lambda rng: [128] * 8,
    "32x128": lambda rng: [128] * 32,
    "mixed": lambda rng: mixed(rng)[0],
}


@dataclass
class Row:
    input_ids: list[int]
    lang_id: int = -1
    second: None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def times(call: Callable[[Any], Any], inputs: Iterable[Any]) -> str:
    """The least and the median of the calls, in ms."""
    found = []
    for item in inputs:
        began = time.perf_counter()
        call(item)
        found.append(1000 * (time.perf_counter() - began))
    return f"{min(found):.3f} {statistics.median(found):.3f}"


def profile(call: Callable[[Any], Any], inputs: Iterable[Any], lines: int) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    for item in inputs:
        call(item)
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(lines)


class Replays:
    """The last replay of a graph, to be repeated."""

    def __init__(self) -> None:
        self.last: tuple[CudaDevice, CapturedGraph] | None = None
        replay = CudaDevice.replay

        def remember(device: CudaDevice, graph: CapturedGraph) -> None:
            self.last = device, graph
            replay(device, graph)

        CudaDevice.replay = remember  # type: ignore[method-assign]

    def again(self, _: int) -> None:
        assert self.last is not None
        device, graph = self.last
        device.replay(graph)
        device.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle")
    parser.add_argument("--calls", type=int, default=60)
    parser.add_argument("--lines", type=int, default=0, help="lines of each profile (%(default)s)")
    parser.add_argument("--no-cuda-graphs", action="store_true")
    options = parser.parse_args()
    replays = Replays()
    gpu = GpuOptions(cuda_graphs=False) if options.no_cuda_graphs else None
    pipe = pipeline("text-classification", options.bundle, provider="cuda", gpu=gpu)
    model, rng = pipe.model, np.random.default_rng(0)
    sampler = TextSampler(model.tokenizer, np.random.default_rng(2))
    print(f"Least and median of {options.calls} calls, ms")
    for name, draw in SHAPES.items():
        replays.last = None
        rows = [[Row(rng.integers(14, model.config.vocab_size, n).tolist()) for n in draw(rng)]
                for _ in range(options.calls)]  # fmt: skip
        for few in rows[:6]:
            model.run(few)
        print(f"{name}: ids to logits {times(model.run, rows)}")
        if replays.last is not None:
            print(f"{name}: graph alone {times(replays.again, range(options.calls))}")
        texts = [[sampler.draw(n, rng) for n in draw(rng)] for _ in range(options.calls)]
        for overlapped in (True, False):
            model.batching = replace(model.batching, overlapped=overlapped)
            print(f"{name}: texts to answers, {'' if overlapped else 'not '}read ahead, first {times(pipe, texts)}, "
                  f"again {times(pipe, texts)}")  # fmt: skip
        print(f"{name}: tokenising {times(lambda batch: list(map(model.tokenizer.encoder.row, batch)), texts)}")
        if options.lines:
            profile(model.run, rows, options.lines)
            profile(pipe, texts, options.lines)


if __name__ == "__main__":
    main()
