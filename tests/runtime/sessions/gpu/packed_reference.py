"""A slow, obvious stand-in for a packed graph on CUDA, of every head: each row by itself, by a loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import SimpleNamespace

import numpy as np

from tests.runtime.sessions.gpu.fake import FakeDevice
from xlm_runtime.config import XLMConfig
from xlm_runtime.sessions.gpu.executor import Binding, Call, Execution
from xlm_runtime.sessions.gpu.planning import Axis, Tensor
from xlm_runtime.tasks import TensorSpec

DIM = 3
Arrays = Mapping[str, np.ndarray]


def answer(inputs: Arrays, outputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """The outputs for a packed graph's inputs, in float64; refuses inputs that the kernels would misread."""
    rng = np.random.default_rng(0)
    words, positions, languages = rng.normal(size=(200, DIM)), rng.normal(size=(64, DIM)), rng.normal(size=(50, DIM))
    x = words[inputs["input_ids"]] + positions[inputs["position_ids"]] + languages[inputs["langs"]]
    bounds, offset = inputs["cumulative_sequence_length"], inputs["token_offset"]
    rows, longest = offset.shape
    assert (len(bounds), bounds[0], bounds[-1]) == (rows + 1, 0, len(x))
    assert sorted(offset.reshape(-1)) == list(range(offset.size))
    hidden = np.empty_like(x)
    for row, (start, stop) in enumerate(pairwise(bounds)):
        assert 0 <= stop - start <= longest
        assert (offset.reshape(-1)[start:stop] == row * longest + np.arange(stop - start)).all()
        scores = np.exp(x[start:stop] @ x[start:stop].T)
        hidden[start:stop] = scores / scores.sum(axis=1, keepdims=True) @ x[start:stop]
    kept = hidden
    if "kept_index" in inputs:
        kept = hidden[inputs["kept_index"]]
    elif "padded_index" in inputs:
        padded = inputs["padded_index"]
        real = inputs["token_index"][padded].reshape(-1) == np.arange(padded.size)
        weights = real.reshape(padded.shape) * (1 - inputs.get("p_mask", np.zeros(padded.shape)))
        kept = (hidden[padded] * weights[..., None]).sum(axis=-2)
        if "cls_index" in inputs:
            kept = kept + np.take_along_axis(hidden[padded], inputs["cls_index"][:, None, None], axis=1)[:, 0]
    values = {}
    for spec in outputs:
        value = kept if spec.axes[-1] in ("vocab_size", "num_labels", "emb_dim") else kept.sum(axis=-1)
        values[spec.name] = value
    return values


class ReferenceExecutor:
    """The stand-in on a device of fakes."""

    name = "reference"
    profiles = ()

    def __init__(self, device: FakeDevice, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.inputs, self.outputs = tuple(map(_tensor, inputs)), tuple(map(_tensor, outputs))
        self.shapes: list[dict[str, tuple[int, ...]]] = []
        self._device = device
        self._specs = outputs

    def enqueue(self, call: Call) -> None:
        self.shapes.append({item.name: item.shape for item in call.inputs})

        def compute() -> None:
            values = answer({item.name: self._at(item) for item in call.inputs}, self._specs)
            for item in call.outputs:
                self._at(item)[:] = values[item.name]

        self._device.enqueue(compute)

    def prepare(self, call: Call) -> Execution:
        return SimpleNamespace(capturable=True, enqueue=lambda: self.enqueue(call))

    def close(self) -> None: ...

    def _at(self, item: Binding) -> np.ndarray:
        dtype = next(tensor.storage for tensor in (*self.inputs, *self.outputs) if tensor.name == item.name)
        count = int(np.prod(item.shape))
        return self._device.bytes_at(item.address, count * dtype.itemsize).view(dtype).reshape(item.shape)


class ReferenceSession:
    """The stand-in without a device."""

    def __init__(self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
        self.input_names = tuple(spec.name for spec in inputs)
        self.output_names = tuple(spec.name for spec in outputs)
        self._specs = outputs

    def run(self, inputs: Arrays) -> dict[str, np.ndarray]:
        return answer(inputs, self._specs)


def _tensor(spec: TensorSpec) -> Tensor:
    sizes: dict[str, Axis] = dict.fromkeys(("vocab_size", "num_labels", "emb_dim"), DIM)
    axes = tuple(sizes.get(axis, axis) for axis in spec.axes)
    return Tensor(spec.name, "float64" if spec.dtype == "float" else spec.dtype, axes)


def small_config(**options: object) -> XLMConfig:
    return XLMConfig(**{"vocab_size": 200, "emb_dim": DIM * 2, "n_layers": 1, "n_heads": 2, "n_langs": 50} | options)
