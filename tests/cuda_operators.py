"""ONNX Runtime's operators as their CUDA kernels compute them, slow and obvious, for `onnx.reference`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class PackedMultiHeadAttention(OpRun):
    """Row by row, head by head, in float32."""

    op_domain = "com.microsoft"

    def _run(self, heads: Any, key: Any, value: Any, bias: Any, token_offset: Any, bounds: Any,
             num_heads: int = 0, scale: float = 0.0) -> tuple[Any]:  # fmt: skip
        tokens, n_heads, three, head_dim = heads.shape
        rows, longest = token_offset.shape
        assert (key, value, three, n_heads, len(bounds)) == (None, None, 3, num_heads, rows + 1)
        assert (token_offset.dtype, bounds.dtype) == (np.int32, np.int32)
        assert bounds[0] == 0
        assert bounds[-1] == tokens
        lengths = np.diff(bounds)
        real = [row * longest + column for row in range(rows) for column in range(lengths[row])]
        padding = [place for place in range(rows * longest) if place not in set(real)]
        assert token_offset.reshape(-1).tolist() == real + padding
        q_bias, k_bias, v_bias = bias.astype(np.float32).reshape(3, n_heads, head_dim)
        context = np.zeros((tokens, n_heads, head_dim), np.float32)
        for row in range(rows):
            for head in range(n_heads):
                part = heads[bounds[row] : bounds[row + 1], head].astype(np.float32)  # (row's tokens, 3, head_dim)
                q, k, v = part[:, 0] + q_bias[head], part[:, 1] + k_bias[head], part[:, 2] + v_bias[head]
                scores = q @ k.T * (scale or 1 / math.sqrt(head_dim))
                weights = np.exp(scores - scores.max(axis=-1, keepdims=True, initial=-np.inf))
                context[bounds[row] : bounds[row + 1], head] = weights @ v / weights.sum(axis=-1, keepdims=True)
        return (context.reshape(tokens, -1).astype(heads.dtype),)


class SkipLayerNormalization(OpRun):
    """The sum is rounded to the type of its terms, and normalised in float32; it is the fourth output."""

    op_domain = "com.microsoft"

    def _run(self, x: Any, skip: Any, gamma: Any, beta: Any, bias: Any = None,
             epsilon: float = 0.0) -> tuple[Any, ...]:  # fmt: skip
        with np.errstate(all="ignore"):
            rounded = (x if bias is None else x + bias) + skip
            total = rounded.astype(np.float32)
            normal = (total - total.mean(axis=-1, keepdims=True)) / np.sqrt(total.var(axis=-1, keepdims=True) + epsilon)
            result = (normal * gamma.astype(np.float32) + beta.astype(np.float32)).astype(x.dtype)
            nothing = np.zeros(0, np.float32)  # mean and deviation, which no graph of ours reads
            return result, nothing, nothing, rounded


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Any, bias: Any) -> tuple[Any]:
        y = x + bias
        erf = np.vectorize(math.erf, otypes=[np.float64])(y.astype(np.float64) / math.sqrt(2))
        return ((y * 0.5 * (1 + erf)).astype(x.dtype),)


class GatherElements(OpRun):
    """The reference's own takes at most 64 rows."""

    def _run(self, values: Any, index: Any, axis: int = 0) -> tuple[Any]:
        return (np.take_along_axis(values, index, axis),)


OPERATORS = [PackedMultiHeadAttention, SkipLayerNormalization, BiasGelu, GatherElements]


class NumpySession:
    """A `Session` of a graph in numpy, every result rounded to its type, as on a GPU."""

    def __init__(self, path: Path) -> None:
        self._evaluator = ReferenceEvaluator(onnx.load(path), new_ops=OPERATORS)
        types = {item.name: onnx.helper.tensor_dtype_to_np_dtype(item.type.tensor_type.elem_type)
                 for item in self._evaluator.proto_.graph.input}  # fmt: skip
        self._types = types

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(self._evaluator.input_names)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(self._evaluator.output_names)

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feed = {name: value.astype(self._types[name], copy=False) for name, value in inputs.items()}
        with np.errstate(all="ignore"):
            return dict(zip(self.output_names, self._evaluator.run(None, feed), strict=True))
