"""What takes the time of a call in OpenVINO: `python -m benchmarks.openvino_profile BUNDLE --lengths 128,128,…`.

Milliseconds of each kind of operator, the mean of several calls after the first, on random ids; after it what the
process holds in memory before and after `--shapes` calls of other lengths.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import psutil

from benchmarks.suite import default_threads
from benchmarks.workloads import FIRST_WORD
from xlm_runtime.bundle import Bundle
from xlm_runtime.model.packing import pack


def inputs(
    bundle: Bundle, precision: str | None, lengths: list[int], rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The graph's inputs for rows of random ids."""
    graph = bundle.graph(precision, "openvino")
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = rng.integers(FIRST_WORD, bundle.config.vocab_size, mask.shape) * mask
    padded = {"input_ids": ids, "attention_mask": mask, "langs": np.zeros_like(ids)}
    if graph.layout == "packed":
        return pack(padded, graph.inputs, bundle.config.summary_type)
    return {spec.name: padded[spec.name] for spec in graph.inputs}


def node_times(request: Any) -> dict[str, tuple[str, float]]:
    """Each executed node's kind and milliseconds."""
    return {
        node.node_name: (node.node_type, 1e3 * node.real_time.total_seconds())
        for node in request.get_profiling_info()
        if node.status == openvino.ProfilingInfo.Status.EXECUTED
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision")
    parser.add_argument("--compute", default="bf16", help="f32 or bf16, besides int8 products (%(default)s)")
    parser.add_argument("--lengths", default=",".join(["128"] * 8), help="tokens of each row (%(default)s)")
    parser.add_argument("--calls", type=int, default=12)
    parser.add_argument("--shapes", type=int, default=0, help="then so many single rows of 8 to 128 tokens")
    options = parser.parse_args()
    bundle, rng = Bundle.load(options.bundle), np.random.default_rng(0)
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": default_threads(), "PERFORMANCE_HINT": "LATENCY", "PERF_COUNT": True,
        "INFERENCE_PRECISION_HINT": options.compute,
    }  # fmt: skip
    graph = bundle.folder / bundle.graph(options.precision, "openvino").file
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    feed = inputs(bundle, options.precision, [int(n) for n in options.lengths.split(",")], rng)
    request.infer(feed)
    first = node_times(request)
    seconds = []
    for _ in range(options.calls):
        began = time.perf_counter()
        request.infer(feed)
        seconds.append(time.perf_counter() - began)
    kinds = defaultdict(list)
    for name, (kind, mean) in node_times(request).items():
        # OpenVINO's times are means of all calls so far, the first one included, which makes the kernels (and may leave
        # out nodes that later ones execute)
        kinds[kind].append(mean + (mean - first.get(name, (kind, mean))[1]) / options.calls)
    print(f"{1e3 * statistics.median(seconds):.1f} ms")
    for operator, times in sorted(kinds.items(), key=lambda item: -sum(item[1]))[:12]:
        print(f"{operator:<24} {len(times):4d} calls {sum(times):8.2f} ms")
    process = psutil.Process()
    before = process.memory_info().rss / 1e6
    for _ in range(options.shapes):
        request.infer(inputs(bundle, options.precision, [int(rng.integers(8, 129))], rng))
    print(f"memory {before:.0f} MB, after {options.shapes} other shapes {process.memory_info().rss / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
