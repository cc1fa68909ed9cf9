"""A language model in numpy behind the interface of an executor: it keeps ids as keys in a static cache, and what it
says next depends on all that it finds there."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from xlm_runtime.sessions.gpu.executor import Call
from xlm_runtime.sessions.gpu.planning import Profile, Tensor

_CACHE = ("batch", 2, "past_sequence", 1)


class RememberingModel:
    """`next_*` are computed before anything else: an executor may do that, since nothing tells it not to."""

    name = "remembering"
    inputs = (
        Tensor("input_ids", "int64", ("batch", "sequence")),
        Tensor("position_ids", "int64", ("batch", "sequence")),
        Tensor("seqlens_k", "int32", ("batch",)),
        Tensor("langs", "int64", ("batch", "sequence")),
        Tensor("logit_positions", "int64", ("kept",)),
        Tensor("past_key_values.0.key", "float32", _CACHE),
        Tensor("past_key_values.0.value", "float32", _CACHE),
    )
    profiles: tuple[Profile, ...] = ()
    capturable = True

    def __init__(self, runtime: FakeRuntime, words: int, seed: int) -> None:
        self.words, self.seed = words, seed
        self.outputs = (
            Tensor("next_input_ids", "int64", ("kept", 1)),
            Tensor("next_position_ids", "int64", ("kept", 1)),
            Tensor("next_seqlens_k", "int32", ("batch",)),
            Tensor("logits", "float32", ("kept", words)),
            Tensor("present.0.key", "float32", _CACHE),
            Tensor("present.0.value", "float32", _CACHE),
        )
        self._runtime = runtime

    def scores(self, ids: Any, positions: Any, lang: int) -> np.ndarray:
        """(words,) scores behind ids that stand at `positions`."""
        told = [self.seed, lang, *map(int, ids), *map(int, positions)]
        return np.random.default_rng(told).random(self.words).astype(np.float32)

    def continued(self, prompt: list[int], lang: int, steps: int) -> list[int]:
        """The best tokens, one after the other."""
        ids = list(prompt)
        for _ in range(steps):
            ids.append(int(self.scores(ids, range(len(ids)), lang).argmax()))
        return ids[len(prompt) :]

    def enqueue(self, call: Call) -> None:
        arrays = {}
        for tensors, bindings in ((self.inputs, call.inputs), (self.outputs, call.outputs)):
            for tensor, item in zip(tensors, bindings, strict=True):
                size = int(np.prod(item.shape)) * tensor.storage.itemsize
                memory = (ctypes.c_uint8 * size).from_address(item.address)
                arrays[item.name] = np.ctypeslib.as_array(memory).view(tensor.storage).reshape(item.shape)
        self._runtime.enqueue(lambda: self._compute(arrays))

    def prepare(self, call: Call) -> Any:
        model = self

        class Execution:
            capturable = True

            def enqueue(self) -> None:
                model.enqueue(call)

        return Execution()

    def close(self) -> None: ...

    def _compute(self, arrays: dict[str, np.ndarray]) -> None:
        kept = arrays["logit_positions"]
        arrays["next_seqlens_k"][:] = arrays["seqlens_k"] + 1
        arrays["next_position_ids"][:, 0] = arrays["position_ids"].reshape(-1)[kept] + 1
        key, value = (arrays[f"past_key_values.0.{part}"] for part in ("key", "value"))
        assert key.ctypes.data == arrays["present.0.key"].ctypes.data, "written in place"
        ids, room = arrays["input_ids"], key.shape[2]
        sequence = ids.shape[1]
        past = arrays["seqlens_k"].astype(int) + 1 - sequence if sequence == 1 else np.zeros(len(ids), int)
        for row, first in enumerate(past):
            assert first + sequence <= room
            key[row, :, first : first + sequence, 0] = ids[row]
            value[row, :, first : first + sequence, 0] = arrays["position_ids"][row]
        for i, place in enumerate(kept):
            row, column = divmod(int(place), sequence)
            last = past[row] + column + 1
            lang = int(arrays["langs"][row, column])
            logits = self.scores(key[row, 1, :last, 0], value[row, 0, :last, 0], max(lang, 0))
            arrays["logits"][i] = logits
            arrays["next_input_ids"][i, 0] = logits.argmax()
