"""A graph for CUDA as one that ONNX Runtime can compute on the CPU, to be held against the portable one.

Operators that have kernels on CUDA alone become functions of standard operators, and bfloat16, which has no kernels on
the CPU, float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir
from onnxscript import opset18, script
from onnxscript.values import Opset

from xlm_export.onnx_graph.file import open_model, save
from xlm_export.onnx_graph.widening import widen
from xlm_runtime.sessions import Session, open_session

_DOMAIN = "xlm_export.on_cpu"
_FUNCTIONS = Opset(_DOMAIN, 1)
op: Any = opset18  # typed for eager values; here its functions are translated


@script(_FUNCTIONS, default_opset=op)
def PackedMultiHeadAttention(  # type: ignore[no-untyped-def]  # noqa: N802  # its name as an operator
    heads, bias, token_offset, cumulative_sequence_length, num_heads: int, scale: float
):
    """com.microsoft.PackedMultiHeadAttention on packed heads (tokens, n_heads, 3, head_dim): every row is padded."""
    shape = op.Shape(heads)
    tokens, minus_one = shape[0:1], op.Constant(value_ints=[-1])
    n_heads, three, head_dim = shape[1:2], shape[2:3], shape[3:4]
    rows, longest = op.Shape(token_offset)[0:1], op.Shape(token_offset)[1:2]
    biased = heads + op.Transpose(op.Reshape(bias, op.Concat(three, n_heads, head_dim, axis=0)), perm=[1, 0, 2])
    places = op.Cast(op.Slice(op.Reshape(token_offset, minus_one), op.Constant(value_ints=[0]), tokens), to=7)
    places = op.Unsqueeze(places, minus_one)  # (tokens, 1)
    empty = op.Expand(op.CastLike(0.0, heads), op.Concat(rows * longest, n_heads, three, head_dim, axis=0))
    spread = op.Reshape(op.ScatterND(empty, places, biased), op.Concat(rows, longest, n_heads, three, head_dim, axis=0))
    spread = op.Transpose(spread, perm=[3, 0, 2, 1, 4])  # (3, rows, n_heads, longest, head_dim)
    query, key = op.Cast(op.Gather(spread, 0), to=1), op.Cast(op.Gather(spread, 1), to=1)
    scores = op.MatMul(query, op.Transpose(key, perm=[0, 1, 3, 2])) * op.Constant(value_float=scale)
    lengths = op.Cast(cumulative_sequence_length[1:] - cumulative_sequence_length[:-1], to=7)  # (rows,)
    columns = op.Range(op.Constant(value_int=0), op.Squeeze(longest), op.Constant(value_int=1))
    visible = columns < op.Unsqueeze(lengths, op.Constant(value_ints=[1, 2, 3]))  # (rows, 1, 1, longest)
    weights = op.CastLike(op.Softmax(op.Where(visible, scores, op.Constant(value_float=-1e30)), axis=-1), heads)
    context = op.Transpose(op.MatMul(weights, op.Gather(spread, 2)), perm=[0, 2, 1, 3])
    context = op.Reshape(context, op.Concat(rows * longest, n_heads * head_dim, axis=0))
    return op.GatherND(context, places)


# operator of com.microsoft → the function, which takes those of the operator's inputs that are there
FUNCTIONS = {"PackedMultiHeadAttention": PackedMultiHeadAttention}


def open_on_cpu(graph: Path, copy: Path) -> Session:
    """A session on the CPU of a graph, or where the CPU cannot compute it, of a copy that it can.

    Args:
        copy: where such a copy is written, in the folder of `graph`. It reads its weights out of the graph's files,
            unless they are bfloat16.
    """
    model = open_model(graph)
    called, widened = _call_functions(model), widen(model)
    if not (called or widened):
        return open_session(graph)
    save(model, copy)
    return open_session(copy)


def _call_functions(model: onnx_ir.Model) -> bool:
    """Let a model call functions in place of operators that the CPU lacks; whether there was any."""
    found = [node for node in model.graph if node.domain == "com.microsoft" and node.op_type in FUNCTIONS]
    for node in found:
        result = node.outputs[0]
        call = onnx_ir.node(
            node.op_type,
            [value for value in node.inputs if value is not None],
            node.attributes,
            domain=_DOMAIN,
            outputs=[onnx_ir.Value(name=result.name, type=result.type, shape=result.shape)],
        )
        model.graph.insert_before(node, call)
        onnx_ir.convenience.replace_all_uses_with(result, call.outputs[0], replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
    for name in {node.op_type for node in found}:
        proto = FUNCTIONS[name].to_function_proto()
        for item in proto.opset_import:
            item.version = model.opset_imports.get(item.domain, item.version)
        function = onnx_ir.serde.deserialize_function(proto)
        model.functions[function.identifier()] = function
        model.opset_imports[_DOMAIN] = 1
    return bool(found)
