"""Arrays in the sizes of a bucket, and back. Padding is masked, so it changes no answer."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.sessions.gpu.planning import Axis, Dims, Tensor
from xlm_runtime.sessions.session import Array, narrow_to_bfloat16, widen_bfloat16

# p_mask 1 is a token that cannot be an answer; of all other inputs 0 is harmless where the mask is 0.
_FILL = {"p_mask": 1}


def fill(tensor: Tensor, value: Array, dims: Dims, bucket: Dims, target: NDArray[np.uint8]) -> None:
    """Write an input of the sizes `dims` into the bytes `target`, padded to the sizes `bucket`.

    Args:
        value: in any floating-point type where the tensor has one.
        target: exactly `tensor.nbytes(bucket)` bytes.
    """
    if tensor.name == "logit_positions":
        # a flat index into batch · sequence, whose rows are longer now
        row, column = np.divmod(value, max(dims["sequence"], 1))
        value = row * bucket["sequence"] + column
    if tensor.dtype == "bfloat16":
        value = narrow_to_bfloat16(value)
    padded = target.view(tensor.storage).reshape(tensor.shape(bucket))
    if padded.shape == value.shape:
        padded[...] = value
        return
    padded[...] = _FILL.get(tensor.name, 0)
    for inner, outer in _blocks(tensor.axes, dims, bucket):
        padded[outer] = value[inner]


def cut(tensor: Tensor, source: NDArray[np.uint8], dims: Dims, bucket: Dims) -> Array:
    """An output of the sizes `dims` out of the bytes of one of the sizes `bucket`, as an array of its own.

    bfloat16 comes as float32.
    """
    padded = source.view(tensor.storage).reshape(tensor.shape(bucket))
    value = np.empty(tensor.shape(dims), tensor.storage)
    for inner, outer in _blocks(tensor.axes, dims, bucket):
        value[inner] = padded[outer]
    return widen_bfloat16(value) if tensor.dtype == "bfloat16" else value


def _blocks(axes: tuple[Axis, ...], dims: Dims, bucket: Dims) -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Pairs of places, in the array of sizes `dims` and in the one of sizes `bucket`, that hold the same values."""
    pairs = [tuple(zip(*choice, strict=True)) for choice in product(*(_spans(axis, dims, bucket) for axis in axes))]
    return [(inner, outer) for inner, outer in pairs] if axes else [((), ())]


def _spans(axis: Axis, dims: Dims, bucket: Dims) -> list[tuple[slice, slice]]:
    """The parts of an axis: each of a sum's dimensions is padded at its own end."""
    if isinstance(axis, int):
        return [(slice(axis), slice(axis))]
    spans, inner, outer = [], 0, 0
    for name in axis.split(" + "):
        spans.append((slice(inner, inner + dims[name]), slice(outer, outer + dims[name])))
        inner, outer = inner + dims[name], outer + bucket[name]
    return spans
