"""A batch that no profile takes, in two halves. A row's answer does not depend on its batch-mates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.sessions.gpu.planning import Dims, Tensor
from xlm_runtime.sessions.session import Array

Rows = NDArray[np.int64]


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
