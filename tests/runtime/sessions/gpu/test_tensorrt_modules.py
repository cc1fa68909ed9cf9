"""The fakes against TensorRT's own modules, which need no GPU to be looked at.

A session runs on the fakes, so it uses nothing that they lack; and they have nothing that the modules lack.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.runtime.sessions.gpu import fake_tensorrt
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from xlm_runtime import EngineError, pipeline
from xlm_runtime.sessions.gpu.tensorrt_modules import MODULES, RuntimeModule

TASK = "text-classification"
RTX = "tensorrt_rtx"
LEAN = [name for name, lean in MODULES["tensorrt"] if lean]

# TensorRT's class → what stands for it
FAKES: dict[str, type] = {
    "ILogger": fake_tensorrt.FakeLogger,
    "Runtime": fake_tensorrt.FakeTensorRT(FakeRuntime(), "10").Runtime,
    "ICudaEngine": fake_tensorrt.FakeEngine,
    "IExecutionContext": fake_tensorrt.FakeContext,
}
RTX_FAKES: dict[str, type] = {
    "IRuntimeConfig": fake_tensorrt.FakeRuntimeConfig,
    "IRuntimeCache": fake_tensorrt.FakeRuntimeCache,
}


def overloads(function: Callable[..., Any]) -> list[tuple[str, ...]]:
    """The parameters' names without `self`, as pybind11 writes them into a function's documentation."""
    lines = re.findall(rf"^(?:\d+\. )?{function.__name__}\(self: (.*)\) -> ", function.__doc__ or "", re.MULTILINE)
    return [tuple(re.findall(r", (\w+): ", line)) for line in lines]


@pytest.fixture(params=[*LEAN, RTX], scope="module")
def module(request: pytest.FixtureRequest) -> ModuleType:
    """A real one, imported before the fakes hide it."""
    return pytest.importorskip(request.param, reason=f"{request.param} has no wheels for this machine")


def test_methods_and_their_parameters(module: ModuleType) -> None:
    compared = 0
    for name, fake in (FAKES | (RTX_FAKES if module.__name__ == RTX else {})).items():
        for member, ours in vars(fake).items():
            given = member == "__init__" and name in ("ILogger", "Runtime")  # others come from TensorRT
            if member.startswith("_") and not given:
                continue
            theirs = getattr(getattr(module, name), member)
            if isinstance(ours, property):
                assert isinstance(theirs, property), f"{name}.{member}"
                assert bool(ours.fset) <= bool(theirs.fset), f"{name}.{member}"
            elif inspect.isfunction(ours):
                assert tuple(inspect.signature(ours).parameters)[1:] in overloads(theirs), f"{name}.{member}"
            compared += 1
    assert compared > 20


def test_enumerations(module: ModuleType) -> None:
    assert set(RuntimeModule.__annotations__) <= set(dir(module)) & {*vars(fake_tensorrt.FakeTensorRT), "Runtime"}
    pairs: list[tuple[type[Enum], Any]] = [
        (fake_tensorrt.Severity, module.ILogger.Severity),
        (fake_tensorrt.TensorLocation, module.TensorLocation),
        (fake_tensorrt.ExecutionContextAllocationStrategy, module.ExecutionContextAllocationStrategy),
    ]
    for ours, theirs in pairs:
        assert {item.name: item.value for item in ours}.items() <= {
            name: int(value) for name, value in theirs.__members__.items()
        }.items()
    assert {*fake_tensorrt.TYPES.values(), "INT32", "BOOL"} <= set(module.DataType.__members__)
    assert isinstance(module.__version__, str)


def test_what_is_asked_for_by_name(module: ModuleType) -> None:
    """The kernels that TensorRT-RTX compiles, and whether it is done with that."""
    assert hasattr(module, "IRuntimeCache") == (module.__name__ == RTX)
    assert hasattr(module.IExecutionContext, "is_stream_capturable") == (module.__name__ == RTX)
    if module.__name__ == RTX:
        assert overloads(module.IExecutionContext.is_stream_capturable) == [("stream",)]


def test_a_session_in_the_module_itself(
    module: ModuleType, engine_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken, its logger is ours, and what it says of a machine without a GPU, or of this plan, is an error."""
    flavor = "tensorrt-rtx" if module.__name__ == RTX else "tensorrt"
    folder = engine_bundle(TASK, flavor=flavor, version=module.__version__, lean_runtime="excluded")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(EngineError, match=r"The engine 'model.plan' cannot be loaded: .*Error Code"):
        pipeline(TASK, folder, "tensorrt")
