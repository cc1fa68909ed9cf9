"""What every provider looks like to the rest of the runtime: how a graph is opened, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.bundle import BUNDLE_FILE, Bundle, Graph
from xlm_runtime.providers import Provider
from xlm_runtime.sessions.gpu.options import GpuOptions

Array = NDArray[Any]


class Session(Protocol):
    """A graph that is ready to run. `run` may be called from several threads at once."""

    @property
    def input_names(self) -> tuple[str, ...]: ...

    @property
    def output_names(self) -> tuple[str, ...]: ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs, by name; bfloat16 ones come as float32, which numpy has.

        Args:
            inputs: exactly the arrays of `input_names`; floating-point ones may have any precision.

        Raises:
            EngineError: the provider refuses the arrays or fails.
        """
        ...


class StartingSession(Session, Protocol):
    """A session whose device computes while the host does something else."""

    def start(self, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Begin what `run` does.

        Returns:
            What waits for the outputs; it raises where the device failed. Nobody has to call it.

        Raises:
            EngineError: the provider refuses the arrays.
        """
        ...


def start_run(session: Session, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
    """Begin a run, see `StartingSession`. Where a session has no `start` it is over on return."""
    begin: Callable[[Mapping[str, Array]], Callable[[], dict[str, Array]]] | None = getattr(session, "start", None)
    if begin is not None:
        return begin(inputs)
    outputs = session.run(inputs)
    return lambda: outputs


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


@runtime_checkable
class StaticCacheSession(Session, Protocol):
    """A session that may have a graph with a static cache, see `tasks.static_cache_specs`."""

    def create_static_cache(self, rows: int, max_length: int) -> Any:
        """An empty `xlm_runtime.model.cache.StaticCache` for `rows` sequences of at most `max_length` tokens."""
        ...

    def greedy(self, inputs: Mapping[str, Array], max_length: int, steps: int) -> Generator[Array, None, None]:
        """(rows,) int64, the best token behind each row, and then behind each row with it, `steps` times in all.

        Args:
            inputs: the graph's inputs for the prompts but for keys and values, one of `logit_positions` for each row.
            max_length: most tokens of a row.
        """
        ...


@dataclass(frozen=True)
class GraphSource:
    """A graph to open: its file, and the bundle and entry that it belongs to where they are known."""

    path: Path
    bundle: Bundle | None = None
    graph: Graph | None = None

    @classmethod
    def of(cls, bundle: Bundle, graph: Graph) -> GraphSource:
        """A graph of a bundle."""
        return cls(bundle.folder / graph.file, bundle, graph)

    def find_entry(self) -> tuple[Bundle, Graph] | None:
        """The bundle and entry, read where only a path was given; None where no bundle lies there.

        Raises:
            BundleError: see `Bundle.load`.
            InputError: the bundle has no such graph.
        """
        if self.bundle is not None and self.graph is not None:
            return self.bundle, self.graph
        if not (self.path.parent / BUNDLE_FILE).is_file():
            return None
        bundle = Bundle.load(self.path.parent)
        return bundle, bundle.graph_of_file(self.path.name)


@dataclass(frozen=True)
class SessionOptions:
    """What `open_session` hands to an opener.

    Args:
        threads: of one call on the CPU.
        gpu: options of the providers on a GPU.
        engine_cache: folder for what is built on this machine; None for the provider's default.
        cache_required: whether an engine cache that cannot be used is an error; "cpu" does without it otherwise.
    """

    threads: int
    gpu: GpuOptions
    engine_cache: Path | None = None
    cache_required: bool = True


class Opener(Protocol):
    """What a provider's row names: opens a graph there or raises, and never falls back to another provider."""

    def __call__(self, source: GraphSource, provider: Provider, options: SessionOptions) -> Session:
        """Load the graph.

        Raises:
            MissingExtraError: the provider's package is not installed.
            EngineError: it cannot start, or cannot load the graph.
            InputError, BundleError: options or files that it cannot use.
        """
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
