"""From a model to an ONNX graph: torch.export, translation, constant folding, names."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx_ir
import torch
from onnxscript import optimizer
from torch import Tensor

from xlm_export.families.table import MODEL_TYPE, export_family
from xlm_export.onnx_graph.file import weight_bytes
from xlm_export.onnx_graph.names import WeightNames
from xlm_export.tracing.graph import TORCH_DTYPES, ExportGraph
from xlm_export.tracing.translations import translation_table
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.tasks import TOTAL, TensorSpec

DEFAULT_OPSET = 18
OPSETS = range(18, 24)

# Axis sizes of the example batch: all different, and none 0 or 1, which tracing would take for constants.
_EXAMPLE_SIZES = {
    "batch": 2,
    "num_choices": 3,
    "sequence": 7,
    "kept": 5,
    "past_sequence": 11,
    TOTAL: 18,
    "tokens": 13,
    "packs": 6,
    "longest": 9,
    "most_kept": 4,
}


def trace(graph: ExportGraph, precision: str, opset: int) -> onnx_ir.Model:
    """Trace `graph` in `precision` into an ONNX model with real dynamic axes.

    Raises:
        InputError: an opset that is not offered.
    """
    if opset not in OPSETS:
        raise InputError(f"opset {opset} is not offered; expected {OPSETS.start} to {OPSETS.stop - 1}.")
    dtype = TORCH_DTYPES[precision]
    if dtype != torch.float32:
        graph = copy.deepcopy(graph).to(dtype)
    example = {spec.name: _example(spec, graph.model.config, dtype) for spec in graph.inputs}
    with _quiet():
        program = torch.export.export(graph, (example,), dynamic_shapes=(_dynamic_shapes(graph),), strict=False)
        onnx_program = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=[spec.name for spec in graph.inputs],
            output_names=[spec.name for spec in graph.outputs],
            custom_translation_table=translation_table(),
            optimize=False,
            verbose=False,
        )
    if onnx_program is None:
        raise RuntimeError("torch.onnx.export returned no program.")
    model: onnx_ir.Model = onnx_program.model
    _name_products(model, export_family(graph.model.config).names)
    fold(model)
    _own_biases(model)
    _name_axes(model, graph)
    model.metadata_props[MODEL_TYPE] = graph.model.config.model_type
    return model


def fold(model: onnx_ir.Model) -> None:
    """Inline functions, fold every constant whatever its size, and drop what is then unused."""
    weights = weight_bytes(model)
    with _quiet():
        optimizer.optimize_ir(model, input_size_limit=weights + 1, output_size_limit=weights + 1)


def _example(spec: TensorSpec, config: XLMConfig, dtype: torch.dtype) -> Tensor:
    shape = [_EXAMPLE_SIZES.get(axis) or int(getattr(config, axis)) for axis in spec.axes]
    if spec.dtype == "int64":
        return torch.ones(shape, dtype=torch.int64)
    return torch.zeros(shape, dtype=dtype if spec.dtype == "float" else torch.float32)


def _dynamic_shapes(graph: ExportGraph) -> dict[str, dict[int, Any]]:
    limits = dict.fromkeys(("sequence", "past_sequence"), graph.model.config.max_position_embeddings)
    dims: dict[str, Any] = {
        axis: torch.export.Dim(axis, max=limits.get(axis)) for axis in _EXAMPLE_SIZES if axis != TOTAL
    }
    dims[TOTAL] = torch.export.Dim.AUTO  # a sum of two others, which the tracer finds out
    return {
        spec.name: {i: dims[axis] for i, axis in enumerate(spec.axes) if axis in _EXAMPLE_SIZES}
        for spec in graph.inputs
    }


def _name_products(model: onnx_ir.Model, names: WeightNames) -> None:
    """Names for the constants that folding will make of weights, so that they still tell what they are.

    A transposed weight becomes `….weight.transposed`; weights and biases that the packed layout joins into one product
    get the name of `WeightNames.joined`, such as `….attentions.{i}.qkv_lin.weight`, or kv_lin.
    """
    for node in model.graph:
        first = node.inputs[0].name or "" if node.inputs and node.inputs[0] is not None else ""
        if node.op_type == "Concat" and (joined := names.joined(node.inputs)):
            node.outputs[0].name = joined
        elif node.op_type == "Transpose" and first.endswith(".weight"):
            node.outputs[0].name = f"{first}.transposed"


def _own_biases(model: onnx_ir.Model) -> None:
    """A bias of its own for each product: folding merges equal ones, as the zeros of new models are, and then the
    names, by which passes and quantisers find layers, would depend on the weights' values.

    Products of several layers have one weight where folding merged these too, as in a tiny model of equal weights; then
    the first one names the bias.
    """
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "MatMul" else None
        if weight is None or not (weight.name or "").endswith(".weight.transposed"):
            continue
        name = str(weight.name).removesuffix("weight.transposed") + "bias"
        for use in tuple(node.outputs[0].uses()):
            bias = use.node.inputs[1]
            taken = name in model.graph.initializers
            if use.node.op_type == "Add" and bias is not None and bias.is_initializer() and not taken:
                own = onnx_ir.val(name, const_value=bias.const_value)
                model.graph.register_initializer(own)
                use.node.replace_input_with(1, own)


def _name_axes(model: onnx_ir.Model, graph: ExportGraph) -> None:
    """Give inputs and outputs, and their symbolic dimensions, the names that the table of tasks has for them."""
    for values, specs in ((model.graph.inputs, graph.inputs), (model.graph.outputs, graph.outputs)):
        for value, spec in zip(values, specs, strict=True):
            if value.shape is None:
                raise RuntimeError(f"The traced value {value.name} has no shape.")
            value.name = spec.name
            dims = zip(value.shape, spec.axes, strict=True)
            value.shape = onnx_ir.Shape([dim if isinstance(dim, int) else axis for dim, axis in dims])
    for node in model.graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)  # has the paths of the machine that exports
        for value in node.outputs:  # names of inner symbols would not fit the new ones
            if value not in model.graph.outputs:
                value.shape = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what PyTorch's exporter prints and warns about itself; errors still come through."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
