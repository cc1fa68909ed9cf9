"""How a bundle is served, checked once."""

from __future__ import annotations

from dataclasses import dataclass

from xlm_runtime.errors import InputError
from xlm_runtime.machine import check_threads
from xlm_runtime.providers import AUTO, find_provider

_MOST = 2**31 - 1


@dataclass(frozen=True)
class ServingOptions:
    """What may be asked of a model repository.

    Args:
        task: that the Python backend answers; by default the bundle's.
        instances: of a model, side by side (on a GPU: on each).
        max_batch: most texts, or rows, that Triton puts together.
        max_queue_delay_us: microseconds that a request waits for others while an instance is free.
        provider: of the Python backend, see `xlm_runtime.pipeline`; on a GPU the others serve for one, too.
        precision: or recipe of the graph or engine; by default the bundle's first.
        threads: of each instance on the CPU; by default the instances share the CPUs.
        engine: name of the TensorRT engine, where the bundle has several.

    Raises:
        InputError: a number out of its range, or an unknown provider.
    """

    task: str | None = None
    instances: int = 1
    max_batch: int = 32
    max_queue_delay_us: int = 0
    provider: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    engine: str | None = None

    def __post_init__(self) -> None:
        for name, least in (("instances", 1), ("max_batch", 1), ("max_queue_delay_us", 0)):
            value = getattr(self, name)
            if not least <= value <= _MOST:
                raise InputError(f"{name} is {value}; expected a whole number from {least} to {_MOST}.")
        check_threads(self.threads)
        if self.provider != AUTO:
            find_provider(self.provider)

    @property
    def on_gpu(self) -> bool:
        """Whether the provider computes on a GPU for certain."""
        return self.provider != AUTO and find_provider(self.provider).on_gpu
