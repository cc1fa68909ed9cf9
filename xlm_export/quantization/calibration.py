"""The range of every product's input over calibration batches: its extremes, or what holds most of its values.

    extremes    ReduceMin(x), ReduceMax(x)
    histogram   bin(x) = (x - low) · BINS / (high - low), counted by ScatterElements with the reduction "add"

Both are computed in the graph, so that a call gives few numbers for each tensor, however many texts there are. The
histograms lie between the extremes, which takes a second pass over the batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from xlm_export.onnx_graph.constants import constant
from xlm_export.onnx_graph.file import external_data, open_model, save
from xlm_export.quantization.int8 import Ranges
from xlm_export.quantization.products import find_products
from xlm_runtime.sessions import Array, Session, open_session

BINS = 8192


def extremes(source: Path, scratch: Path, feeds: Sequence[Mapping[str, Array]]) -> Ranges:
    """The lowest and highest value of each product's input, by name.

    Args:
        source: the fp32 graph.
        scratch: a file in the same folder, written and removed.
        feeds: the graph's inputs, a call each.
    """
    model = open_model(source)
    names = []
    for value in _inputs(model):
        names.append(str(value.name))
        for kind in ("Min", "Max"):
            node = onnx_ir.node(f"Reduce{kind}", [value], {"keepdims": 0})
            _add_output(model, [node], f"{value.name}/{kind}", onnx_ir.DataType.FLOAT, [])
    ranges: dict[str, tuple[float, float]] = {}
    with _opened(model, scratch) as session:
        for feed in feeds:
            outputs = session.run(feed)
            for name in names:
                low, high = float(outputs[f"{name}/Min"]), float(outputs[f"{name}/Max"])
                before = ranges.get(name, (low, high))
                ranges[name] = (min(low, before[0]), max(high, before[1]))
    return ranges


def percentile_ranges(
    source: Path, scratch: Path, feeds: Sequence[Mapping[str, Array]], ranges: Ranges, percentile: float
) -> Ranges:
    """The range that holds `percentile` percent of the values of each product's input, half of the rest on each side.

    Each end is exact to a bin, 1/8192 of the extremes' range, and on its outer edge.

    Args:
        source, scratch, feeds: as for `extremes`.
        ranges: the extremes over the same calls.
    """
    model = open_model(source)
    names = []
    for value in _inputs(model):
        low, high = ranges[str(value.name)]
        if 0 < high - low < np.inf:
            names.append(str(value.name))
            _add_histogram(model, value, low, high)
    counts = {name: np.zeros(BINS, np.int64) for name in names}
    with _opened(model, scratch) as session:
        for feed in feeds:
            outputs = session.run(feed)
            for name in names:
                counts[name] += outputs[f"{name}/Histogram"]
    return {**ranges, **{name: middle(counts[name], *ranges[name], percentile) for name in names}}


def middle(counts: Array, low: float, high: float, percentile: float) -> tuple[float, float]:
    """The outer edges of the bins in which `percentile` percent of the values begin and end.

    Args:
        counts: (bins,) values in each of equal bins between `low` and `high`.
    """
    total = int(counts.sum())
    cut = int(total * (100 - percentile) / 200)  # values left out at each end
    so_far = counts.cumsum()
    first = int(np.searchsorted(so_far, cut, side="right"))
    last = int(np.searchsorted(so_far, total - cut, side="left"))
    width = (high - low) / len(counts)
    return low + first * width, low + (last + 1) * width


def _inputs(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    """Of all products, each once."""
    return list({product.input.name: product.input for product in find_products(model)}.values())


def _add_histogram(model: onnx_ir.Model, value: onnx_ir.Value, low: float, high: float) -> None:
    graph, name = model.graph, value.name
    shift = constant(graph, f"{name}/low", np.array(low, np.float32))
    scale = constant(graph, f"{name}/scale", np.array(BINS / (high - low), np.float32))
    empty = constant(graph, "histogram/empty", np.zeros(BINS, np.int64))
    bounds = [constant(graph, f"histogram/{name}", np.array(i, np.int64)) for name, i in (("0", 0), ("n", BINS - 1))]
    flat = constant(graph, "histogram/flat", np.array([-1], np.int64))
    one = onnx_ir.tensor(np.array([1], np.int64))
    shifted = onnx_ir.node("Sub", [value, shift])
    scaled = onnx_ir.node("Mul", [shifted.outputs[0], scale])
    whole = onnx_ir.node("Cast", [scaled.outputs[0]], {"to": onnx_ir.DataType.INT64})
    inside = onnx_ir.node("Clip", [whole.outputs[0], *bounds])  # the highest value, and what rounding does
    bins = onnx_ir.node("Reshape", [inside.outputs[0], flat])
    shape = onnx_ir.node("Shape", [bins.outputs[0]])
    ones = onnx_ir.node("ConstantOfShape", [shape.outputs[0]], {"value": one})
    count = onnx_ir.node("ScatterElements", [empty, bins.outputs[0], ones.outputs[0]], {"axis": 0, "reduction": "add"})
    nodes = [shifted, scaled, whole, inside, bins, shape, ones, count]
    _add_output(model, nodes, f"{name}/Histogram", onnx_ir.DataType.INT64, [BINS])


def _add_output(
    model: onnx_ir.Model, nodes: Sequence[onnx_ir.Node], name: str, dtype: onnx_ir.DataType, shape: Sequence[int]
) -> None:
    """Add nodes to the graph, the last of which gives a new output."""
    model.graph.extend(nodes)
    out = nodes[-1].outputs[0]
    out.name, out.type, out.shape = name, onnx_ir.TensorType(dtype), onnx_ir.Shape(shape)
    model.graph.outputs.append(out)


@contextlib.contextmanager
def _opened(model: onnx_ir.Model, scratch: Path) -> Iterator[Session]:
    try:
        save(model, scratch)
        yield open_session(scratch)
    finally:
        scratch.unlink(missing_ok=True)
        external_data(scratch).unlink(missing_ok=True)
