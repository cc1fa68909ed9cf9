"""The table of providers: where a graph can be computed, and what each of them takes.

Plain data and plain functions, which everything may read. A provider is a row here and an opener in `sessions`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from xlm_runtime.errors import InputError
from xlm_runtime.filled_sizes import NOT_FILLED, Buckets, Filling, Multiples

AUTO = "auto"
"""Accepted where a provider is named: the best one of this machine, see `model.choose`."""
DEFAULT_PROVIDER = "cpu"
"""That of bundles that were made for none."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """A row.

    Args:
        name: as it is asked for.
        module: what is imported; None for a provider whose engines name their own.
        packages: that bring it, as they are installed.
        extra: the extra that installs one of them.
        device: "cpu" or "cuda", where it computes.
        opener: "module:function" of a `sessions.session.Opener`.
        targets: the graphs that it takes, in the order in which it prefers them: what a graph was rewritten for, None
            for a portable one.
        layouts: of the graphs that it takes.
        max_tokens: layout → tokens of a batch.
        filling: what batches are filled up to, see `filled_sizes`; on a GPU those whose calls are captured.
        lacks: precisions that it has no kernels for.
        execution_provider: ONNX Runtime's name of it.
        reads_engines: whether it computes with a TensorRT engine that was built from the graph, weights included.
        follows_target: whether a bundle's graph that was rewritten for it decides the precision where none is asked.
        builds: whether it builds something on this machine that an engine cache keeps.
        keeps: whether a pipeline keeps that in the user's cache folder where no other is named.
        auto_rank: its place among those that "auto" tries without a record; None for one that it never tries.
    """

    name: str
    module: str | None
    packages: tuple[str, ...]
    extra: str
    device: str
    opener: str
    targets: tuple[str | None, ...]
    max_tokens: Mapping[str, int]
    layouts: tuple[str, ...] = ("padded", "packed")
    filling: Filling = NOT_FILLED
    lacks: tuple[str, ...] = ()
    execution_provider: str | None = None
    reads_engines: bool = False
    follows_target: bool = False
    builds: bool = False
    keeps: bool = False
    auto_rank: int | None = None

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    def takes(self, target: str | None, layout: str, precision: str) -> bool:
        """Whether it has what a graph needs, as far as the bundle tells."""
        return target in self.targets and layout in self.layouts and precision not in self.lacks


# Two CPU cores are busy with few tokens: 134 sequences of 8 to 128 tokens took 1.25 s one by one, 1.04 s in batches of
# 512 tokens, 1.13 s of 2048. A GPU needs more to be busy.
_ON_CPU, _ON_GPU = {"padded": 512, "packed": 512}, {"padded": 8192, "packed": 8192}

_ROWS = (
    Provider(
        name="cpu",
        module="onnxruntime",
        packages=("onnxruntime",),
        extra="cpu",
        device="cpu",
        opener="xlm_runtime.sessions.onnxruntime_session:open_on_cpu",
        targets=("onnxruntime-cpu", None),
        max_tokens=_ON_CPU,
        lacks=("bf16",),
        execution_provider="CPUExecutionProvider",
        builds=True,
        keeps=True,
        auto_rank=2,
    ),
    Provider(
        name="cuda",
        module="onnxruntime",
        packages=("onnxruntime-gpu",),
        extra="gpu",
        device="cuda",
        opener="xlm_runtime.sessions.gpu.opening:open_onnxruntime",
        targets=("onnxruntime-cuda", None),
        max_tokens=_ON_GPU,
        filling=Buckets(),
        execution_provider="CUDAExecutionProvider",
        follows_target=True,
        auto_rank=1,
    ),
    Provider(
        name="openvino",
        module="openvino",
        packages=("openvino",),
        extra="openvino",
        device="cpu",
        opener="xlm_runtime.sessions.openvino_session:open_openvino",
        targets=("openvino", None),
        # 134 sequences took 3.52 s in packed batches of 1,024 tokens in place of 3.64
        max_tokens={"padded": 512, "packed": 1024},
        # OpenVINO makes and keeps kernels for every new shape. Packed batches of like size share theirs: groups of 2
        # to 8 sequences took 4.1 s in place of 5.2, and the process grew to 0.7 GB in place of 1.7
        # (benchmarks/NOTES.md).
        filling=Multiples(tokens=32, longest=16),
        builds=True,
        auto_rank=3,
    ),
    Provider(
        name="tensorrt",
        module=None,
        packages=("tensorrt", "tensorrt-rtx", "tensorrt-lean-cu13", "tensorrt-lean-cu12"),
        extra="tensorrt",
        device="cuda",
        opener="xlm_runtime.sessions.gpu.opening:open_engine",
        targets=(None,),
        layouts=("padded",),
        max_tokens=_ON_GPU,
        reads_engines=True,
        builds=True,
        auto_rank=0,
    ),
    Provider(
        name="tensorrt-ep",
        module="onnxruntime",
        packages=("onnxruntime-gpu",),
        extra="gpu",
        device="cuda",
        opener="xlm_runtime.sessions.gpu.opening:open_onnxruntime",
        targets=(None,),
        layouts=("padded",),
        max_tokens=_ON_GPU,
        execution_provider="TensorrtExecutionProvider",
        builds=True,
    ),
)
PROVIDERS: dict[str, Provider] = {row.name: row for row in _ROWS}


def find_provider(name: str) -> Provider:
    """The row of a provider.

    Raises:
        InputError: there is none of this name.
    """
    if name not in PROVIDERS:
        raise InputError(f"Unknown provider '{name}'; expected one of {', '.join(PROVIDERS)}.")
    return PROVIDERS[name]


def gpu_providers() -> tuple[str, ...]:
    """Names of those that compute on a GPU."""
    return tuple(name for name, row in PROVIDERS.items() if row.on_gpu)


def building_providers() -> tuple[str, ...]:
    """Names of those that build something which an engine cache keeps."""
    return tuple(name for name, row in PROVIDERS.items() if row.builds)


def auto_order() -> tuple[str, ...]:
    """What "auto" takes without a record is the first of these that is there."""
    ranked = [(row.auto_rank, name) for name, row in PROVIDERS.items() if row.auto_rank is not None]
    return tuple(name for _, name in sorted(ranked))


def provider_packages() -> tuple[str, ...]:
    """All packages that bring a provider, each once."""
    return tuple(dict.fromkeys(package for row in PROVIDERS.values() for package in row.packages))


def is_installed(provider: Provider) -> bool:
    """Whether the package of a provider is there; a provider that reads engines has none of its own."""
    name = provider.module
    if name is None:
        return True
    return sys.modules[name] is not None if name in sys.modules else find_spec(name) is not None


def verifying_provider(precision: str) -> str:
    """The first provider on the CPU that computes in a precision."""
    return next(name for name, row in PROVIDERS.items() if not row.on_gpu and precision not in row.lacks)
