"""A call's plan: all that follows from the shapes of its inputs, so that it is worked out once for each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xlm_runtime.errors import EngineError
from xlm_runtime.sessions.gpu.cache import DeviceArray, Slab, SlabLayout
from xlm_runtime.sessions.gpu.executor import Binding, Call, Executor
from xlm_runtime.sessions.gpu.memory import Bytes
from xlm_runtime.sessions.gpu.padding import Placement, view
from xlm_runtime.sessions.gpu.planning import (
    ANY_SHAPE,
    NOTHING,
    Dims,
    Tensor,
    bucket_dims,
    choose_profile,
    plan_buffer,
    read_dims,
)
from xlm_runtime.sessions.session import Array
from xlm_runtime.tasks import PAST, PRESENT

# Plans kept; a session sees as many different shapes as there are lengths and batches.
_MOST_PLANS = 1024

# Bytes between two outputs that come back with them rather than spend a copy more.
_GAP = 1 << 16


@dataclass(frozen=True, eq=False)
class CallPlan:
    """How a call of the sizes `dims` runs: in which profile, padded to `bucket`, with its arrays where.

    `sent` go to the device in one buffer of `sent_bytes`, `back` come from it in another; past and present keys and
    values are in neither where they stay on the device.
    """

    profile: int
    dims: Dims
    bucket: Dims
    sent: tuple[Placement, ...]
    sent_bytes: int
    back: tuple[Placement, ...]
    back_bytes: int
    calls: dict[tuple[int, ...], Call] = field(default_factory=dict)
    _views: dict[str, tuple[Bytes, tuple[Array, ...]]] = field(default_factory=dict)

    @cached_property
    def pieces(self) -> tuple[tuple[int, int], ...]:
        """Offsets and sizes of what is copied back: few pieces, since a copy takes some 5 µs."""
        pieces: list[tuple[int, int]] = []
        for place in self.back:
            start, end = place.region.offset, place.region.offset + place.used
            if pieces and start - sum(pieces[-1]) <= _GAP:
                start, _ = pieces.pop()
            pieces.append((start, end - start))
        return tuple(pieces)

    def sent_views(self, buffer: Bytes) -> tuple[Array, ...]:
        """The regions of `sent` in the host's buffer; the same arrays for the same buffer."""
        return self._viewed("sent", self.sent, buffer)

    def back_views(self, buffer: Bytes) -> tuple[Array, ...]:
        """The regions of `back` in the host's buffer."""
        return self._viewed("back", self.back, buffer)

    def _viewed(self, name: str, places: tuple[Placement, ...], buffer: Bytes) -> tuple[Array, ...]:
        known = self._views.get(name)
        if known is None or known[0] is not buffer:
            known = self._views[name] = buffer, tuple(view(place, buffer) for place in places)
        return known[1]


class Planner:
    """Plans of an executor's calls, remembered by shape.

    Args:
        buckets: pad to the sizes of `planning.bucket_size`, but for packed batches that are too large for it.

    Attributes:
        past, present: the tensors of keys and values.
        static: the executor writes new keys and values into the past's own memory.

    Raises:
        EngineError: an output whose shape does not follow from the inputs'.
    """

    def __init__(self, executor: Executor, *, buckets: bool) -> None:
        known = {name for tensor in executor.inputs for name in tensor.dims}
        for tensor in executor.outputs:
            if not tensor.dims <= known:
                raise EngineError(
                    f"The shape of the output {tensor.name}, {tensor.axes}, does not follow from the inputs' in "
                    f"'{executor.name}', so there is no room to plan for it. Use provider='cpu', or export it again."
                )
        self._executor = executor
        self._buckets = buckets
        self._profiles = executor.profiles or (ANY_SHAPE,)
        self._plans: OrderedDict[Any, CallPlan] = OrderedDict()
        self.past = tuple(tensor for tensor in executor.inputs if tensor.name.startswith(PAST))
        outputs = {tensor.name: tensor for tensor in executor.outputs}
        self.present = tuple(outputs[tensor.name.replace(PAST, PRESENT, 1)] for tensor in self.past)
        self.static = bool(self.past) and self.present[0].axes == self.past[0].axes

    def dims(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """The sizes of a call's dimensions; raises EngineError for shapes that contradict the graph."""
        return read_dims(self._executor.inputs, {name: tuple(value.shape) for name, value in inputs.items()})

    def fits(self, dims: Dims) -> bool:
        return any(profile.takes(dims, NOTHING) for profile in self._profiles)

    def bucket(self, dims: Dims) -> dict[str, int]:
        """The sizes that a call of `dims` would be padded to; raises EngineError where no profile takes it."""
        return bucket_dims(dims, choose_profile(self._profiles, dims, self._work))

    def plan(self, inputs: Mapping[str, Any]) -> CallPlan:
        """The plan of a call.

        Raises:
            EngineError: wrong inputs, or sizes that no profile takes.
        """
        held = next((value for value in inputs.values() if isinstance(value, DeviceArray)), None)
        layout = held.slab.layout if held is not None and held.slab is not None else None
        key = (held is not None, layout, *((name, value.shape) for name, value in inputs.items()))
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plans[key] = self._make(self.dims(inputs), held is not None, layout)
            if len(self._plans) > _MOST_PLANS:
                self._plans.popitem(last=False)
        return plan

    def call(self, plan: CallPlan, sent: int, back: int, past: Slab | None, present: Slab | None) -> Call:
        """The call with its arrays at these addresses; the same object for the same addresses.

        Args:
            sent, back: the buffers' addresses.
            past, present: keys and values that stay on the device.
        """
        key = (sent, back, past.base if past else 0, present.base if present else 0)
        call = plan.calls.get(key)
        if call is None:
            where = {place.tensor.name: sent + place.region.offset for place in plan.sent}
            where |= {place.tensor.name: back + place.region.offset for place in plan.back}
            for tensors, slab in ((self.past, past), (self.present, present)):
                if slab is not None:
                    where |= {each.name: slab.layout.address(slab.base, i) for i, each in enumerate(tensors)}
            if len(plan.calls) > 16:  # addresses of the past that do not come back
                plan.calls.clear()
            call = plan.calls[key] = Call(
                plan.profile,
                tuple(Binding(each.name, where[each.name], each.shape(plan.bucket)) for each in self._executor.inputs),
                tuple(Binding(each.name, where[each.name], each.shape(plan.bucket)) for each in self._executor.outputs),
            )
        return call

    def _make(self, dims: Dims, staying: bool, layout: SlabLayout | None) -> CallPlan:
        fixed = NOTHING if layout is None else {"batch": layout.rows, "past_sequence": layout.capacity}
        profile = choose_profile(self._profiles, dims, self._work, fixed)
        bucket = bucket_dims(dims, profile, fixed) if self._buckets else {**profile.raised(dims), **fixed}
        sent, sent_bytes = _places(self._executor.inputs, self.past if layout else (), dims, bucket)
        back, back_bytes = _places(self._executor.outputs, self.present if staying else (), dims, bucket)
        return CallPlan(profile.index, dims, bucket, sent, sent_bytes, back, back_bytes)

    def _work(self, dims: Dims) -> int:
        return sum(tensor.nbytes(dims) for tensor in self._executor.inputs)


def _places(
    tensors: tuple[Tensor, ...], without: tuple[Tensor, ...], dims: Dims, bucket: Dims
) -> tuple[tuple[Placement, ...], int]:
    tensors = tuple(tensor for tensor in tensors if tensor not in without)
    regions, size = plan_buffer(tensors, bucket)
    return tuple(Placement.plan(tensor, regions[tensor.name], dims, bucket) for tensor in tensors), size
