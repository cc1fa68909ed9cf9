"""What takes the time of a decoding step: `python -m benchmarks.decoding_profile BUNDLE [--precision int8]`.

Microseconds of each operator of a step in ONNX Runtime, one thread: the least time of each node over all steps, so that
other work on the machine hardly shows. Below, in CPU time of the one thread, what a whole step of the runtime's search
takes, and how much of it is outside the engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.generation import weights_read
from xlm_runtime import GenerationOptions, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.generation.decoder import Prompt
from xlm_runtime.generation.search import make_strategy, search

# operators that multiply with weights, in the precisions that `quantize` makes
PRODUCTS = ("Gemm", "MatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulInteger", "MatMulNBits")
BYTES = {"fp32": 4.0, "int8": 1.0, "int4": 0.5}


def node_times(path: Path, feed: dict[str, np.ndarray], steps: int) -> dict[str, tuple[str, float, bool]]:
    """For each node its operator, its least time in seconds, and whether it is a product with weights."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = f"{folder}/profile"
        session = onnxruntime.InferenceSession(str(path), options)
        for _ in range(steps):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found: dict[str, tuple[str, float, bool]] = {}
    for event in events:
        if event["name"].endswith("_kernel_time"):
            node, operator = event["name"], event["args"]["op_name"]
            least = min(event["dur"] / 1e6, found[node][1] if node in found else np.inf)
            found[node] = (operator, least, operator in PRODUCTS and _has_weights(event["args"]))
    return found


def _has_weights(event: Mapping[str, Any]) -> bool:
    """Products of attention have two inputs of four axes, products with weights none."""
    shapes = [shape for tensor in event["input_type_shape"] for shape in tensor.values()]
    return all(len(shape) < 4 for shape in shapes)


def step_feed(bundle: Bundle, batch: int, past: int) -> dict[str, np.ndarray]:
    """A decoding step behind `past` tokens."""
    config, rng = bundle.config, np.random.default_rng(0)
    one = np.ones((batch, 1), np.int64)
    feed = {"input_ids": 20 * one, "position_ids": past * one, "logit_positions": np.arange(batch)}
    feed |= {"attention_mask": np.ones((batch, past + 1), np.int64), "langs": 0 * one}
    shape = (batch, config.n_heads, past, config.head_dim)
    names = [spec.name for spec in bundle.graph().inputs]
    return {name: feed[name] if name in feed else rng.normal(size=shape).astype(np.float32) for name in names}


def search_times(folder: Path, precision: str, batch: int, past: int, steps: int) -> tuple[float, float]:
    """CPU seconds of a step of the runtime's search, and of those outside the engine's call; medians."""
    pipe = pipeline("text-generation", folder, threads=1, precision=precision)
    engine: list[float] = []
    feed = pipe.model.feed

    def timed(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        began = time.thread_time()
        outputs: dict[str, np.ndarray] = feed(inputs)
        engine.append(time.thread_time() - began)
        return outputs

    pipe.model.feed = timed
    prompts = [Prompt([20] * past) for _ in range(batch)]
    options = GenerationOptions(max_new_tokens=steps + 1, ignore_eos=True)
    strategy = make_strategy(prompts, options, [], lambda new: "length" if len(new) > steps else None)
    running = search(pipe.decoder(past + steps + 1), prompts, strategy)
    next(running)
    engine.clear()
    whole = []
    began = time.thread_time()
    for _ in running:
        whole.append(time.thread_time() - began)
        began = time.thread_time()
    outside = [step - inner for step, inner in zip(whole, engine, strict=True)]
    return statistics.median(whole), statistics.median(outside)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--precision", choices=BYTES, default="int8")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    graph = bundle.graph(options.precision)
    nodes = node_times(bundle.folder / graph.file, step_feed(bundle, options.batch, options.context), options.steps)
    total = sum(least for _, least, _ in nodes.values())
    rows: dict[str, list[float]] = defaultdict(list)
    for operator, least, weights in nodes.values():
        rows[operator + (" with weights" if weights else "")].append(least)
    print("| operator | calls | µs | share |\n|---|---|---|---|")
    for operator, times in sorted(rows.items(), key=lambda row: -sum(row[1])):
        print(f"| {operator} | {len(times)} | {1e6 * sum(times):.0f} | {sum(times) / total:.1%} |")
    products = sum(least for _, least, weights in nodes.values() if weights)
    read = BYTES[options.precision] * weights_read(bundle.config)
    print(
        f"{len(nodes)} nodes, {1000 * total:.2f} ms: {total / products:.2f} times their products with weights, "
        f"which read {read / 1e6:.0f} MB at {read / products / 1e9:.1f} GB/s"
    )
    whole, outside = search_times(options.bundle, options.precision, options.batch, options.context, options.steps)
    print(f"a step of the search {1000 * whole:.2f} ms, {1000 * outside:.2f} of them outside the engine")


if __name__ == "__main__":
    main()
