"""Padded batches filled up to few shapes, for sessions that prepare themselves for every new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from xlm_runtime.filled_sizes import filled_size
from xlm_runtime.numerics import move_positions
from xlm_runtime.sessions import Array, Session
from xlm_runtime.tasks import FILL, PAST, TensorSpec


class FilledSession:
    """A padded graph's session that meets few shapes: `Session` for callers that give it any.

    What is filled up: a row's tokens, to a multiple of `most` or less, the rows, and the places that logits are asked
    for. What is added is masked, and no answer has it. With a cache the rows stay as they are: a step would copy it.

    Args:
        session: the graph's.
        inputs, outputs: the graph's.
        most: largest step.
    """

    def __init__(
        self, session: Session, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], most: int
    ) -> None:
        self._session = session
        self._inputs = inputs
        self._outputs = outputs
        self._most = most
        cached = any(spec.name.startswith(PAST) for spec in inputs)
        self._filled = ("sequence",) if cached else ("sequence", "batch", "kept")

    @property
    def input_names(self) -> tuple[str, ...]:
        return self._session.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self._session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        sizes = {
            axis: size
            for spec in self._inputs
            if spec.name in inputs
            for axis, size in zip(spec.axes, inputs[spec.name].shape, strict=False)
        }
        added = {axis: filled_size(sizes[axis], self._most) - sizes[axis] for axis in self._filled if axis in sizes}
        if not any(added.values()):
            return self._session.run(inputs)
        arrays = dict(inputs)
        if "logit_positions" in arrays:
            old = sizes["sequence"]
            arrays["logit_positions"] = move_positions(arrays["logit_positions"], old, old + added["sequence"])
        for spec in self._inputs:
            widths = [(0, _added(axis, added)) for axis in spec.axes]
            if spec.name in arrays and any(width for _, width in widths):
                arrays[spec.name] = np.pad(arrays[spec.name], widths, constant_values=FILL.get(spec.name, 0))
        outputs = self._session.run(arrays)
        for spec in self._outputs:
            value = outputs[spec.name]
            ends = [size - _added(axis, added) for axis, size in zip(spec.axes, value.shape, strict=True)]
            outputs[spec.name] = value[tuple(map(slice, ends))]
        return outputs


def _added(axis: str, added: Mapping[str, int]) -> int:
    """What comes to an axis, or to the last of its parts: of past_sequence + sequence the new tokens are filled up."""
    return added.get(axis.rpartition(" + ")[2], 0)
