"""Which profile and which bucket a call takes, and where its arrays lie in memory: plain arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import numpy as np

from xlm_runtime.errors import EngineError

Axis = int | str
Shape = tuple[int, ...]
Dims = Mapping[str, int]

# Device addresses of an executor's tensors are aligned to this many bytes (TensorRT asks for it).
ALIGNMENT = 256

NOTHING: Dims = MappingProxyType({})

_SUM = " + "


@dataclass(frozen=True)
class Tensor:
    """An executor's input or output. `dtype` is a numpy name or "bfloat16".

    An axis is a number, the name of a dimension, or a sum of two, "past_sequence + sequence".
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...]

    @property
    def storage(self) -> np.dtype[np.generic]:
        """The numpy type that its bytes are handled as; bfloat16, which numpy lacks, as its bits."""
        return np.dtype(np.uint16) if self.dtype == "bfloat16" else np.dtype(self.dtype)

    @property
    def dims(self) -> set[str]:
        """The dimensions that the shape is made of."""
        return {name for axis in self.axes if isinstance(axis, str) for name in axis.split(_SUM)}

    def shape(self, dims: Dims) -> Shape:
        return tuple(size_of(axis, dims) for axis in self.axes)

    def nbytes(self, dims: Dims) -> int:
        return prod(self.shape(dims)) * self.storage.itemsize


@dataclass(frozen=True)
class Profile:
    """Sizes that an executor takes: dimension → smallest and largest. `index` is its number there.

    A dimension that is in neither may have any size.
    """

    index: int
    name: str
    low: dict[str, int]
    high: dict[str, int]

    def takes(self, dims: Dims, fixed: Dims) -> bool:
        """Whether a call of these sizes fits, be it that those that are not `fixed` are padded up to the smallest."""
        within = all(size <= self.high.get(name, size) for name, size in {**dims, **fixed}.items())
        return within and all(size >= self.low.get(name, size) for name, size in fixed.items())

    def raised(self, dims: Dims) -> dict[str, int]:
        """`dims`, at least the smallest sizes."""
        return {name: max(size, self.low.get(name, 0)) for name, size in dims.items()}


ANY_SHAPE = Profile(0, "any", {}, {})


def size_of(axis: Axis, dims: Dims) -> int:
    """The size of an axis when the dimensions have the sizes `dims`."""
    return axis if isinstance(axis, int) else sum(dims[name] for name in axis.split(_SUM))


def read_dims(tensors: Iterable[Tensor], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The sizes of all dimensions, out of the shapes of an executor's inputs.

    Raises:
        EngineError: an input is missing or foreign, or the shapes contradict the axes or each other.
    """
    tensors = tuple(tensors)
    names = [tensor.name for tensor in tensors]
    if set(names) != set(shapes):
        raise EngineError(f"The graph's inputs are {', '.join(names)}; given: {', '.join(shapes)}.")
    dims: dict[str, int] = {}
    for tensor in tensors:
        shape = shapes[tensor.name]
        if len(shape) != len(tensor.axes):
            raise EngineError(f"{tensor.name} has the shape {shape}; expected {_axes(tensor)}.")
        for axis, size in zip(tensor.axes, shape, strict=True):
            if isinstance(axis, str) and _SUM not in axis and dims.setdefault(axis, size) != size:
                raise EngineError(f"{tensor.name} has the shape {shape}, but {axis} is {dims[axis]} in another input.")
    for tensor in tensors:
        if tensor.shape(dims) != shapes[tensor.name]:
            raise EngineError(
                f"{tensor.name} has the shape {shapes[tensor.name]}; expected {_axes(tensor)}, here "
                f"{tensor.shape(dims)}."
            )
    return dims


def read_profile(
    index: int, name: str, tensors: Sequence[Tensor], shapes: Mapping[str, tuple[Shape, Shape, Shape]]
) -> Profile:
    """A profile, from the smallest, optimal and largest shape of every input."""
    low, _, high = (read_dims(tensors, {tensor: shape[i] for tensor, shape in shapes.items()}) for i in range(3))
    return Profile(index, name, low, high)


def choose_profile(
    profiles: Sequence[Profile], dims: Dims, work: Callable[[Dims], int], fixed: Dims = NOTHING
) -> Profile:
    """The profile that costs least for a call: the least work once it is padded up to the profile's smallest sizes,
    then the least work at the largest, which is the one that was optimised nearest, then the first.

    Args:
        work: what sizes cost, such as the bytes of all inputs.
        fixed: sizes that cannot be padded, in place of those in `dims`.

    Raises:
        EngineError: no profile takes these sizes.
    """
    dims = {**dims, **fixed}
    fitting = [profile for profile in profiles if profile.takes(dims, fixed)]
    if not fitting:
        asked = ", ".join(f"{name} {size}" for name, size in dims.items())
        there = "; ".join(f"{profile.name}: {_limits(profile)}" for profile in profiles)
        raise EngineError(
            f"No profile of the engine takes {asked}. It has {there}. Build it again with a profile that does "
            "(xlm-export engine ... --profile), or give it less at once."
        )
    return min(fitting, key=lambda profile: (work(profile.raised(dims)), work({**dims, **profile.high}), profile.index))


# Dimension → rungs between a power of two and the next, and the size up to which the power's own rungs are left out.
# A rung more halves the padding and doubles the number of CUDA graphs.
_RUNGS = {"batch": (2, 1), "kept": (2, 1), "sequence": (4, 8), "past_sequence": (1, 64)}


def bucket_size(name: str, size: int) -> int:
    """The smallest size of dimension `name` that calls are captured at and that holds `size`.

    batch and kept: 1, 2, 3, 4, 6, 8, 12, 16, 24, …; sequence: 1, then multiples of 8 to 64, of 16 to 128, of 32 to
    256, …; past_sequence: 0, 64, 128, 256, …; others as they are.
    """
    if name not in _RUNGS or size == 0 or (size == 1 and name != "past_sequence"):
        return size
    rungs, least = _RUNGS[name]
    octave = 1 << max((size - 1).bit_length() - 1, 0)  # octave < size <= 2 · octave
    step = max(octave // rungs, least, 1)
    return -(-size // step) * step


def bucket_dims(dims: Dims, profile: Profile, fixed: Dims = NOTHING) -> dict[str, int]:
    """Sizes to pad a call to, inside a profile that takes it; `fixed` ones are kept."""
    up = profile.raised({name: bucket_size(name, size) for name, size in dims.items()})
    return {name: fixed.get(name, min(size, profile.high.get(name, size))) for name, size in up.items()}


@dataclass(frozen=True)
class Region:
    """Where a tensor lies in a buffer: `size` bytes from `offset`."""

    offset: int
    size: int


def plan_buffer(tensors: Iterable[Tensor], dims: Dims) -> tuple[dict[str, Region], int]:
    """Regions for tensors of these sizes behind each other in one buffer, each aligned, and the bytes of the whole.

    An empty tensor has a region too, since executors want an address.
    """
    regions: dict[str, Region] = {}
    end = 0
    for tensor in tensors:
        size = tensor.nbytes(dims)
        regions[tensor.name] = Region(end, size)
        end += aligned(max(size, 1))
    return regions, end


def buffer_size(tensors: Sequence[Tensor], profiles: Iterable[Profile]) -> int:
    """Bytes of a buffer that holds the tensors at the largest sizes of every profile."""
    return max((plan_buffer(tensors, profile.high)[1] for profile in profiles), default=0)


def aligned(size: int, alignment: int = ALIGNMENT) -> int:
    return -(-size // alignment) * alignment


def _axes(tensor: Tensor) -> str:
    return "(" + ", ".join(map(str, tensor.axes)) + ")"


def _limits(profile: Profile) -> str:
    return ", ".join(f"{name} {profile.low[name]} to {profile.high[name]}" for name in profile.high)
