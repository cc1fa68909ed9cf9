"""The modules that run TensorRT's engines: which there are, and what sessions use of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import tensorrt

# flavor → modules that run its engines, the first choice first, and whether one is the lean runtime. That one builds no
# engines; without its meta package it goes by the name of its bindings.
MODULES = {
    "tensorrt": (("tensorrt", False), ("tensorrt_lean", True), ("tensorrt_lean_bindings", True)),
    "tensorrt-rtx": (("tensorrt_rtx", False),),
}


class RuntimeModule(Protocol):
    """What sessions use of any of them. `tensorrt_rtx` has a few things more, which are asked for by name."""

    ILogger: type[tensorrt.ILogger]
    Runtime: type[tensorrt.Runtime]
    TensorLocation: type[tensorrt.TensorLocation]
    ExecutionContextAllocationStrategy: type[tensorrt.ExecutionContextAllocationStrategy]


if TYPE_CHECKING:
    _is_one: RuntimeModule = tensorrt
