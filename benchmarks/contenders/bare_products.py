"""The physical bound: the matrix products with weights that a batch's real tokens need, and nothing else.

For every layer the products of query, key and value (one of 3·dim), of attention's output and of the two halves of the
FFN, 12·dim² multiply-adds a token and layer, each layer with weights of its own. Each engine that is installed is timed
on `SIZES` of tokens when the model is opened; a call is cut into equal parts of the size, and goes to the engine, that
need the least time by that. Attention's own products, normalisation and activation are left out, so nothing that
computes all tokens through all layers can be faster. A language model also projects its masks to the words.

options: `precision` (fp32, bf16 or int8), `layers`, `dim`, `vocab` (0 for no projection). Rows get no answers: zeros.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.workloads import Row

SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)  # tokens of one product
SWEEP_BYTES = 1 << 29
Products = Callable[[int], None]
Shapes = list[tuple[int, int]]
Make = Callable[[Shapes, int], Products]


class BareProducts:
    def __init__(self, options: dict[str, Any], threads: int) -> None:
        torch.set_num_threads(threads)
        layers, dim, vocab = options["layers"], options["dim"], options["vocab"]
        self.engines: dict[str, Products] = {}
        self.seconds: dict[tuple[str, int], float] = {}  # of a product of so many tokens
        engines = ENGINES[options["precision"]]
        for name, make in engines.items():
            try:
                products = make(layers * layer_shapes(dim), threads)
            except ImportError:
                continue
            self.engines[name] = products
            self.seconds |= {(name, size): _median_seconds(products, size) for size in SIZES}
        if not self.engines:
            raise ImportError(f"no engine for products in {options['precision']}: {', '.join(engines)}")
        fastest = {size: min(self.engines, key=lambda name: self.seconds[name, size]) for size in SIZES}
        self.engines = {name: self.engines[name] for name in fastest.values()}
        del products
        gc.collect()
        self.projection = engines[fastest[SIZES[0]]]([(dim, vocab)], threads) if vocab else None
        operations = 2 * 12 * dim**2 * layers / 1e9
        rates = (f"{fastest[n]} {operations * n / self.seconds[fastest[n], n]:.0f} at {n} tokens" for n in SIZES)
        self.about = f"GOP/s: {', '.join(rates)}"
        self._memory: torch.Tensor | None = None

    def answer_all(self, rows: Sequence[Row]) -> np.ndarray:
        tokens = sum(len(row) for row in rows)
        products, parts = self._plan(tokens)
        for i in range(parts):
            products(tokens * (i + 1) // parts - tokens * i // parts)
        masks = sum(row.mask is not None for row in rows)
        if self.projection is not None and masks:
            self.projection(masks)
        return np.zeros((len(rows), 1))

    def _plan(self, tokens: int) -> tuple[Products, int]:
        """The engine and the number of equal parts that should take the least time."""

        def seconds(choice: tuple[str, int]) -> float:
            name, parts = choice
            part = tokens / parts
            larger = next(size for size in SIZES if size >= part)
            # a part between two sizes takes its share of the larger one's time; few tokens take half of the smallest's
            return parts * self.seconds[name, larger] * max(part / larger, 0.5)

        name, parts = min(((name, -(-tokens // size)) for size in SIZES for name in self.engines), key=seconds)
        return self.engines[name], parts

    def sweep(self) -> dict[str, float]:
        """Read half a GB from memory."""
        if self._memory is None:
            self._memory = torch.ones(SWEEP_BYTES // 4)
            self._memory.sum()
        began = time.perf_counter()
        self._memory.sum()
        return {"seconds": time.perf_counter() - began, "bytes": SWEEP_BYTES}


def open_model(options: dict[str, Any], threads: int) -> BareProducts:
    return BareProducts(options, threads)


def layer_shapes(dim: int) -> Shapes:
    """(columns in, columns out) of a layer's products."""
    return [(dim, 3 * dim), (dim, dim), (dim, 4 * dim), (4 * dim, dim)]


def _median_seconds(products: Products, tokens: int, repeats: int = 3) -> float:
    products(tokens)
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        products(tokens)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def products_graph(shapes: Shapes, precision: str) -> ModelProto:
    """Products with weights of these shapes on inputs `x{columns}` (tokens, columns). One number of each product is
    kept, so that none is left out and none has to be written to an output."""
    rng = np.random.default_rng(0)
    whole, quantized = precision == "integer", precision == "qdq"
    nodes, weights, kept = [], [], []
    columns = sorted({into for into, _ in shapes})
    if quantized:
        weights += [numpy_helper.from_array(np.float32(0.02), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
        weights.append(numpy_helper.from_array(np.float32(0.01), "weight_scale"))
        for name in (f"x{n}" for n in columns):
            nodes.append(helper.make_node("QuantizeLinear", [name, "scale", "zero"], [f"{name}_q"]))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_d"]))
    for name, shape in enumerate(shapes):
        values = rng.integers(-127, 128, shape, np.int8)
        stored = values if whole or quantized else values.astype(np.float32) / 1000
        weights.append(numpy_helper.from_array(stored, f"w{name}"))
        source, weight = f"x{shape[0]}", f"w{name}"
        if quantized:
            nodes.append(helper.make_node("DequantizeLinear", [weight, "weight_scale"], [f"d{name}"]))
            source, weight = f"{source}_d", f"d{name}"
        nodes.append(helper.make_node("MatMulInteger" if whole else "MatMul", [source, weight], [f"y{name}"]))
        nodes.append(helper.make_node("Slice", [f"y{name}", "from", "to"], [f"k{name}"]))
        kept.append(f"k{name}")
    nodes.append(helper.make_node("Concat", kept, ["y"], axis=0))
    weights += [
        numpy_helper.from_array(np.array(ends, np.int64), name) for name, ends in (("from", [0, 0]), ("to", [1, 1]))
    ]
    kinds = (TensorProto.UINT8, TensorProto.INT32) if whole else (TensorProto.FLOAT, TensorProto.FLOAT)
    inputs = [helper.make_tensor_value_info(f"x{n}", kinds[0], ["tokens", n]) for n in columns]
    outputs = [helper.make_tensor_value_info("y", kinds[1], [len(kept), 1])]
    graph = helper.make_graph(nodes, "products", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def feeds(shapes: Shapes, kind: type[np.generic]) -> Callable[[int], dict[str, np.ndarray]]:
    """A function from a number of tokens to the inputs of `products_graph`, all ones."""
    arrays = {f"x{into}": np.ones((max(SIZES), into), kind) for into, _ in shapes}
    return lambda tokens: {name: array[:tokens] for name, array in arrays.items()}


def _onnxruntime(graph: str, kind: type[np.generic]) -> Make:
    def make(shapes: Shapes, threads: int) -> Products:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3
        model = products_graph(shapes, graph).SerializeToString()
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        feed = feeds(shapes, kind)
        return lambda tokens: session.run(None, feed(tokens))

    return make


def _openvino(graph: str, hint: str) -> Make:
    def make(shapes: Shapes, threads: int) -> Products:
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        model = core.read_model(products_graph(shapes, graph).SerializeToString())
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        feed = feeds(shapes, np.float32)
        return lambda tokens: request.infer(feed(tokens), share_inputs=True)

    return make


def _torch(kind: torch.dtype) -> Make:
    def make(shapes: Shapes, threads: int) -> Products:
        weights = [torch.ones((out, into), dtype=kind) for into, out in shapes]
        inputs = {into: torch.ones((max(SIZES), into), dtype=kind) for into, _ in shapes}

        def products(tokens: int) -> None:
            with torch.inference_mode():
                for weight in weights:
                    source = inputs[weight.shape[1]][:tokens]
                    if kind is torch.int8:
                        torch._int_mm(source, weight.T)
                    else:
                        torch.nn.functional.linear(source, weight)

        return products

    return make


ENGINES: dict[str, dict[str, Make]] = {
    "fp32": {"onnxruntime": _onnxruntime("fp32", np.float32), "torch": _torch(torch.float32)},
    "bf16": {"torch": _torch(torch.bfloat16), "openvino": _openvino("fp32", "bf16")},
    "int8": {
        "onnxruntime": _onnxruntime("integer", np.uint8),
        "torch": _torch(torch.int8),
        "openvino": _openvino("qdq", "f32"),
    },
}
