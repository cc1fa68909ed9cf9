"""What every engine looks like to the rest of the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Session(Protocol):
    """A graph loaded into an engine. `run` may be called from several threads at once."""

    @property
    def input_names(self) -> tuple[str, ...]: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs, by name; bfloat16 ones come as float32, which numpy has.

        Args:
            inputs: exactly the arrays of `input_names`; floating-point ones may have any precision.

        Raises:
            EngineError: the engine refuses the arrays or fails.
        """
        ...


@runtime_checkable
class CachingSession(Session, Protocol):
    """A session that keeps the keys and values of past tokens where it computes."""

    def create_cache(self, rows: int, max_length: int) -> Any:
        """An empty `xlm_runtime.model.cache.Cache` for `rows` sequences of at most `max_length` tokens.

        Its `inputs` are for this session's `run` alone, whose outputs are for its `append`.
        """
        ...

    def max_rows(self, prompt: int, length: int) -> int | None:
        """Most rows that prompts of `prompt` tokens may have, which grow to `length`; None for any number."""
        ...


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 values, given by their bits, as float32: the same value has the same upper 16 bits there."""
    values: NDArray[np.float32] = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return values


def narrow_to_bfloat16(values: Array) -> NDArray[np.uint16]:
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    upper: NDArray[np.uint32] = np.where(np.isnan(values), np.uint32(0x7FC00000), rounded) >> np.uint32(16)
    return upper.astype(np.uint16)
