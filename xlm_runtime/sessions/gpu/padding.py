"""Arrays in the sizes of a bucket, and back; and a batch that no profile takes, in two halves.

Padding is masked, so it changes no answer, and a row's answer does not depend on its batch-mates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.numerics import move_positions
from xlm_runtime.sessions.gpu.planning import Axis, Dims, Region, Shape, Tensor, size_of
from xlm_runtime.sessions.session import Array, narrow_to_bfloat16, widen_bfloat16
from xlm_runtime.tasks import FILL

Bytes = NDArray[np.uint8]
Place = tuple[slice, ...]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """A tensor of a call: where it lies in a buffer, and how it is padded.

    `blocks` are pairs of places, in the array of `shape` and in the one of `padded`, that hold the same values;
    `used` the bytes before the padded rows behind; `sequence` the length of a row before and after.
    """

    tensor: Tensor
    storage: np.dtype[np.generic]
    region: Region
    shape: Shape
    padded: Shape
    blocks: tuple[tuple[Place, Place], ...]
    used: int
    sequence: tuple[int, int]

    @classmethod
    def plan(cls, tensor: Tensor, region: Region, dims: Dims, bucket: Dims) -> Placement:
        """How a tensor of the sizes `dims` becomes one of the sizes `bucket`."""
        first = tensor.axes[0] if tensor.axes else 1
        return cls(
            tensor,
            tensor.storage,
            region,
            tensor.shape(dims),
            tensor.shape(bucket),
            tuple(_blocks(tensor.axes, dims, bucket)),
            region.size // max(size_of(first, bucket), 1) * size_of(first, dims),
            (dims.get("sequence", 1), bucket.get("sequence", 1)),
        )


def view(place: Placement, buffer: Bytes) -> Array:
    """The region of a tensor in `buffer`, in its padded shape."""
    region = place.region
    return buffer[region.offset : region.offset + region.size].view(place.storage).reshape(place.padded)


def fill(place: Placement, value: Array, padded: Array) -> None:
    """Write an input into its region, padded; floating-point ones may have any precision."""
    tensor = place.tensor
    if tensor.name == "logit_positions" and place.sequence[0] != place.sequence[1]:
        value = move_positions(value, *place.sequence)
    if tensor.dtype == "bfloat16":
        value = narrow_to_bfloat16(value)
    if place.shape == place.padded:
        padded[...] = value
        return
    padded[...] = FILL.get(tensor.name, 0)
    for inner, outer in place.blocks:
        padded[outer] = value[inner]


def cut(place: Placement, padded: Array) -> Array:
    """An output out of its region, as an array of its own; bfloat16 comes as float32."""
    if place.shape == place.padded:
        value = padded.copy()
    else:
        value = np.empty(place.shape, place.storage)
        for inner, outer in place.blocks:
            value[inner] = padded[outer]
    return widen_bfloat16(value) if place.tensor.dtype == "bfloat16" else value


def _blocks(axes: tuple[Axis, ...], dims: Dims, bucket: Dims) -> list[tuple[Place, Place]]:
    if not axes:
        return [((), ())]
    pairs = [tuple(zip(*choice, strict=True)) for choice in product(*(_spans(axis, dims, bucket) for axis in axes))]
    return [(inner, outer) for inner, outer in pairs]


def _spans(axis: Axis, dims: Dims, bucket: Dims) -> list[tuple[slice, slice]]:
    """The parts of an axis: each of a sum's dimensions is padded at its own end."""
    if isinstance(axis, int):
        return [(slice(axis), slice(axis))]
    spans, inner, outer = [], 0, 0
    for name in axis.split(" + "):
        spans.append((slice(inner, inner + dims[name]), slice(outer, outer + dims[name])))
        inner, outer = inner + dims[name], outer + bucket[name]
    return spans


def split(tensors: Sequence[Tensor], inputs: Mapping[str, Array], dims: Dims) -> list[tuple[dict[str, Array], Rows]]:
    """Two batches of half the rows, each with the places among `kept` that its logits go to."""
    middle = dims["batch"] // 2
    return [_part(tensors, inputs, dims, 0, middle), _part(tensors, inputs, dims, middle, dims["batch"])]


def join(
    tensors: Sequence[Tensor], parts: Sequence[tuple[Mapping[str, Array], Rows]], names: Sequence[str]
) -> dict[str, Array]:
    """The outputs `names` of the whole batch, out of those of its parts."""
    joined: dict[str, Array] = {}
    axes = {tensor.name: tensor.axes for tensor in tensors}
    for name in names:
        values = [outputs[name] for outputs, _ in parts]
        if "batch" in axes[name]:
            joined[name] = np.concatenate(values, axis=axes[name].index("batch"))
        else:
            order = np.argsort(np.concatenate([places for _, places in parts]))
            joined[name] = np.concatenate(values, axis=axes[name].index("kept"))[order]
    return joined


def _part(
    tensors: Sequence[Tensor], inputs: Mapping[str, Array], dims: Dims, start: int, stop: int
) -> tuple[dict[str, Array], Rows]:
    part: dict[str, Array] = {}
    places = np.zeros(0, np.int64)
    for tensor in tensors:
        value = inputs[tensor.name]
        if "batch" in tensor.axes:
            rows = [slice(None)] * value.ndim
            rows[tensor.axes.index("batch")] = slice(start, stop)
            part[tensor.name] = value[tuple(rows)]
        elif tensor.name == "logit_positions":
            row = value // max(dims["sequence"], 1)
            places = np.flatnonzero((row >= start) & (row < stop))
            part[tensor.name] = value[places] - start * dims["sequence"]
        else:
            part[tensor.name] = value
    return part, places
