"""What sessions need of an executor: its tensors, its profiles, and to run on arrays that lie at given addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from xlm_runtime.sessions.gpu.planning import Profile, Shape, Tensor


@dataclass(frozen=True)
class Binding:
    """Where an input or output lies on the device, and its shape."""

    name: str
    address: int
    shape: Shape


@dataclass(frozen=True)
class Call:
    """One run of an executor. Equal calls have equal shapes and addresses, so what was captured for one serves another.

    `inputs` and `outputs` are in the executor's order; `profile` is the profile's number.
    """

    profile: int
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.profile, self.inputs, self.outputs)))

    def __hash__(self) -> int:
        return self._hash  # a call has dozens of bindings, and is looked up at every step


class Execution(Protocol):
    """A call made ready, with an execution state of its own that no other call changes."""

    @property
    def capturable(self) -> bool:
        """Whether what `enqueue` does can be captured at this time."""
        ...

    def enqueue(self) -> None: ...


class Executor(Protocol):
    """Something that computes on the device's stream."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    profiles: tuple[Profile, ...]
    """Empty where any shape will do."""

    def enqueue(self, call: Call) -> None:
        """Put a call on the stream.

        Raises:
            EngineError: the executor refuses the shapes or fails.
        """
        ...

    def prepare(self, call: Call) -> Execution:
        """Make a call ready for capture."""
        ...

    def close(self) -> None: ...
