"""Where keys and values of past tokens live, attention alone: `python -m benchmarks.cache_designs [--layers N]`.

One decoding step of N layers of attention (8 heads × 128, no weights) in ONNX Runtime, two threads:

- `concat`: past and new keys joined in the graph, the outputs new arrays; the portable graph's way;
- `bound`: the same, outputs bound to arrays made beforehand;
- `apart`: scores and contexts of past and new tokens computed apart and joined, so that only the new keys leave the
  graph; the past lies in an array with room for multiples of 64 tokens;
- `scatter`: ONNX's TensorScatter and Attention (opset 24), in place in such an array;
- `gqa`: ONNX Runtime's own GroupQueryAttention, in place in such an array.

Milliseconds, the best of all rounds and in brackets the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper

HEADS, DIM = 8, 128
ROOM = 64
node = helper.make_node


def _model(
    layers: int,
    layer: Callable[[int, str, str], list[NodeProto]],
    inputs: dict[str, tuple[list[Any], int]],
    *,
    token: list[Any],
    present: list[Any] | None,
    first: list[NodeProto],
) -> ModelProto:
    """`layers` times what `layer` (number, input, output) writes; each has a past of its own."""
    nodes, past, outputs = list(first), {}, []
    for i in range(layers):
        nodes += layer(i, f"x{i}", f"x{i + 1}")
        for part in "kv":
            past[f"p{part}{i}"] = (["b", HEADS, "p", DIM], TensorProto.FLOAT)
            if present:
                outputs.append(helper.make_tensor_value_info(f"n{part}{i}", TensorProto.FLOAT, present))
    outputs.append(helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, token))
    tensors = dict.fromkeys(("x0", "k", "v"), (token, TensorProto.FLOAT)) | inputs | past
    infos = [helper.make_tensor_value_info(name, kind, shape) for name, (shape, kind) in tensors.items()]
    graph = helper.make_graph(nodes, "attention", infos, outputs)
    domains = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=11)


def concat(layers: int) -> ModelProto:
    def layer(i: int, x: str, y: str) -> list[NodeProto]:
        return [
            node("Concat", [f"pk{i}", "k"], [f"nk{i}"], axis=2),
            node("Concat", [f"pv{i}", "v"], [f"nv{i}"], axis=2),
            node("Transpose", [f"nk{i}"], [f"t{i}"], perm=[0, 1, 3, 2]),
            node("MatMul", [x, f"t{i}"], [f"s{i}"]),
            node("Add", [f"s{i}", "bias"], [f"m{i}"]),
            node("Softmax", [f"m{i}"], [f"w{i}"], axis=-1),
            node("MatMul", [f"w{i}", f"nv{i}"], [y]),
        ]

    bias = {"bias": (["b", 1, 1, "t"], TensorProto.FLOAT)}
    present = ["b", HEADS, "t", DIM]
    return _model(layers, layer, bias, token=["b", HEADS, 1, DIM], present=present, first=[])


def apart(layers: int) -> ModelProto:
    def layer(i: int, x: str, y: str) -> list[NodeProto]:
        return [
            node("Transpose", [f"pk{i}"], [f"t{i}"], perm=[0, 1, 3, 2]),
            node("MatMul", [x, f"t{i}"], [f"sp{i}"]),
            node("MatMul", [x, "kt"], [f"sn{i}"]),
            node("Concat", [f"sp{i}", f"sn{i}"], [f"s{i}"], axis=3),
            node("Add", [f"s{i}", "bias"], [f"m{i}"]),
            node("Softmax", [f"m{i}"], [f"w{i}"], axis=-1),
            node("Split", [f"w{i}", "sizes"], [f"wp{i}", f"wn{i}"], axis=3),
            node("MatMul", [f"wp{i}", f"pv{i}"], [f"cp{i}"]),
            node("MatMul", [f"wn{i}", "v"], [f"cn{i}"]),
            node("Add", [f"cp{i}", f"cn{i}"], [y]),
        ]

    bias = {"bias": (["b", 1, 1, "t"], TensorProto.FLOAT)}
    first = [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("Constant", [], ["one"], value=helper.make_tensor("one", TensorProto.INT64, [1], [1])),
        node("Shape", ["pk0"], ["past"], start=2, end=3),
        node("Concat", ["past", "one"], ["sizes"], axis=0),
    ]
    return _model(layers, layer, bias, token=["b", HEADS, 1, DIM], present=None, first=first)


def scatter(layers: int) -> ModelProto:
    def layer(i: int, x: str, y: str) -> list[NodeProto]:
        return [
            node("TensorScatter", [f"pk{i}", "k", "at"], [f"nk{i}"], axis=2),
            node("TensorScatter", [f"pv{i}", "v", "at"], [f"nv{i}"], axis=2),
            node("Attention", [x, f"nk{i}", f"nv{i}", "", "", "", "lengths"], [y]),
        ]

    inputs = {"at": (["b"], TensorProto.INT64), "lengths": (["b"], TensorProto.INT64)}
    present = ["b", HEADS, "p", DIM]
    return _model(layers, layer, inputs, token=["b", HEADS, 1, DIM], present=present, first=[])


def gqa(layers: int) -> ModelProto:
    def layer(i: int, x: str, y: str) -> list[NodeProto]:
        inputs = [x, "k", "v", f"pk{i}", f"pv{i}", "last", "total"]
        outputs = [y, f"nk{i}", f"nv{i}"]
        options = {"domain": "com.microsoft", "num_heads": HEADS, "kv_num_heads": HEADS}
        return [node("GroupQueryAttention", inputs, outputs, **options)]

    inputs = {"last": (["b"], TensorProto.INT32), "total": ([], TensorProto.INT32)}
    present = ["b", HEADS, "p", DIM]
    return _model(layers, layer, inputs, token=["b", 1, HEADS * DIM], present=present, first=[])


def bind(session: Any, batch: int, past: int, in_place: bool, rng: np.random.Generator) -> Callable[[], object]:
    """A step on arrays made beforehand; `in_place` writes the outputs over the past."""
    room = past if session.names == "concat" else -(-(past + 1) // ROOM) * ROOM
    sizes = {"b": batch, "p": room, "t": room + 1}
    special = {"at": past, "last": past, "lengths": past + 1, "total": past + 1, "bias": 0}
    binding = session.engine.io_binding()
    arrays: dict[str, np.ndarray] = {}
    for item in session.engine.get_inputs():
        shape = [sizes.get(axis, axis) for axis in item.shape]
        kind = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}[item.type]
        drawn = np.full(shape, special[item.name]) if item.name in special else rng.normal(size=shape)
        arrays[item.name] = np.ascontiguousarray(drawn, kind)
    feed = dict(arrays)
    for name, array in feed.items():
        binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
    for item in session.engine.get_outputs():
        if item.name.startswith("n"):
            shape = [sizes.get(axis, axis) for axis in item.shape]
            array = arrays["p" + item.name[1:]] if in_place else np.empty(shape, np.float32)
            arrays[item.name] = array
            binding.bind_output(item.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        else:
            binding.bind_output(item.name, "cpu")
    if session.names == "concat" and not session.bound:
        return lambda: session.engine.run(None, feed)
    return lambda: (session.engine.run_with_iobinding(binding), arrays)


class _Session:
    def __init__(self, names: str, model: ModelProto, threads: int, bound: bool = True) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        self.engine = onnxruntime.InferenceSession(model.SerializeToString(), options)
        self.names, self.bound = names, bound


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--context", type=int, nargs="+", default=[32, 128, 400])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    sessions = {
        "concat": _Session("concat", concat(options.layers), options.threads, bound=False),
        "bound": _Session("concat", concat(options.layers), options.threads),
        "apart": _Session("apart", apart(options.layers), options.threads),
        "scatter": _Session("scatter", scatter(options.layers), options.threads),
        "gqa": _Session("gqa", gqa(options.layers), options.threads),
    }
    rng = np.random.default_rng(0)
    print("| batch × context | " + " | ".join(sessions) + " |\n|---" + "|---" * len(sessions) + "|")
    for batch in options.batch:
        for past in options.context:
            times: dict[str, list[float]] = {name: [] for name in sessions}
            runs = {
                name: bind(session, batch, past, name in ("scatter", "gqa"), rng) for name, session in sessions.items()
            }
            for _ in range(options.rounds):
                for name, run in runs.items():
                    run()
                    for _ in range(options.steps):
                        began = time.perf_counter()
                        run()
                        times[name].append(1000 * (time.perf_counter() - began))
            cells = [f"{min(values):.2f} ({statistics.median(values):.2f})" for values in times.values()]
            print(f"| {batch} × {past} | " + " | ".join(cells) + " |", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
