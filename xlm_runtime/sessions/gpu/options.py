"""What may be asked of sessions on a GPU."""

from __future__ import annotations

from dataclasses import dataclass

from xlm_runtime.bundle.graph import Graph
from xlm_runtime.errors import InputError
from xlm_runtime.providers import Provider


@dataclass(frozen=True)
class GpuOptions:
    """Options of the providers cuda, tensorrt and tensorrt-ep.

    Args:
        device: number of the CUDA device.
        cuda_graphs: capture calls and replay them, with inputs filled up to a few sizes. By default on for tensorrt
            and, with cuda, for graphs of a bundle that were rewritten for it; tensorrt-ep has none.
        max_graphs: most graphs at a time; each takes some device memory.
        engine: tensorrt: name of one of the bundle's engines; by default the first that fits the machine.
        engine_host_code: tensorrt: let a version-compatible engine run the code that it carries, TensorRT's lean
            runtime. Anyone can put other code in its place: for bundles whose source you trust.
        profiles: tensorrt-ep: largest (batch, sequence) of each profile that it builds engines for.

    Raises:
        InputError: a value out of its range.
    """

    device: int = 0
    cuda_graphs: bool | None = None
    max_graphs: int = 64
    engine: str | None = None
    engine_host_code: bool = False
    profiles: tuple[tuple[int, int], ...] = ((1, 128), (8, 512), (32, 128))

    def __post_init__(self) -> None:
        if self.device < 0:
            raise InputError(f"device is {self.device}; expected the number of a CUDA device, 0 or more.")
        if self.max_graphs < 1:
            raise InputError(f"max_graphs is {self.max_graphs}; expected a positive number (or cuda_graphs=False).")
        if not self.profiles or min(min(pair) for pair in self.profiles) < 1:
            raise InputError(f"profiles is {self.profiles}; expected pairs of a largest batch and a largest sequence.")

    def captures(self, provider: Provider, graph: Graph | None) -> bool:
        """Whether calls of a graph are captured.

        Args:
            graph: its entry in a bundle, where that is known.
        """
        if self.cuda_graphs is not None:
            return self.cuda_graphs
        rewritten = graph is not None and graph.target is not None and (graph.tells_rows or not graph.is_packed)
        return provider.reads_engines or (provider.follows_target and rewritten)
