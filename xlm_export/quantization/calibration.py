"""The range of every product's input over calibration batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir

from xlm_export.onnx_file import open_model, save
from xlm_export.quantization.products import find_products
from xlm_runtime.sessions import Array, open_session


def activation_ranges(
    source: Path, scratch: Path, feeds: Sequence[Mapping[str, Array]]
) -> dict[str, tuple[float, float]]:
    """The lowest and highest value of each, by name.

    Args:
        source: the fp32 graph.
        scratch: a file in the same folder, written and removed.
        feeds: the graph's inputs, a call each.
    """
    model = open_model(source)
    names = {product.input.name: product.input for product in find_products(model)}
    for name, value in names.items():
        for kind in ("Min", "Max"):
            node = onnx_ir.node(f"Reduce{kind}", [value], {"keepdims": 0})
            out = node.outputs[0]
            out.name, out.type, out.shape = f"{name}/{kind}", onnx_ir.TensorType(onnx_ir.DataType.FLOAT), (
                onnx_ir.Shape([])
            )  # fmt: skip
            model.graph.append(node)
            model.graph.outputs.append(out)
    try:
        save(model, scratch)
        session = open_session(scratch)
        ranges: dict[str, tuple[float, float]] = {}
        for feed in feeds:
            outputs = session.run(feed)
            for name in names:
                low, high = float(outputs[f"{name}/Min"]), float(outputs[f"{name}/Max"])
                before = ranges.get(name or "", (low, high))
                ranges[name or ""] = (min(low, before[0]), max(high, before[1]))
        return ranges
    finally:
        scratch.unlink(missing_ok=True)
