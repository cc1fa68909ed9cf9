"""`tensorrt` without a GPU: the part of its API that an engine session uses, computing with ONNX Runtime on the CPU.

A plan is the path of the graph that it stands for, as text, behind `CODE` where it carries a lean runtime. Contexts
refuse what TensorRT refuses: shapes outside of the profile, tensors without an address, less memory than the engine
asks for. What the classes define is TensorRT's, with its parameters (`test_tensorrt_modules.py`); what is there for
tests is set in `__init__`.
"""

from __future__ import annotations

import enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime

MEMORY = 4096
CODE = "a lean runtime\n"
TYPES = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(bfloat16)": "BF16"}


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2


class TensorLocation(enum.Enum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class FakeLogger:
    Severity = Severity

    def __init__(self) -> None: ...

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


def refused(engine: FakeEngine, why: str) -> bool:
    engine.logger.log(Severity.ERROR, why)
    return False


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profile: int | None = None
        self._memory = 0
        self.runs = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self._memory = size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle == 7
        self.profile = profile_index
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.profiles[self.profile or 0][name]
        inside = all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        if not inside:
            return refused(self._engine, f"{name} {shape} is outside of profile {self.profile}, {low} to {high}")
        self._shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 256 == 0 or refused(self._engine, f"{name} is not aligned")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Of an output too, once all inputs have theirs."""
        assert set(self._shapes) == set(self._engine.input_types)
        axes = {item.name: item.shape for item in self._engine.session.get_inputs()}
        sizes: dict[str, int] = {}
        for item, shape in self._shapes.items():
            sizes |= dict(zip(map(str, axes[item]), shape, strict=True))
        output = next(item.shape for item in self._engine.session.get_outputs() if item.name == name)
        return tuple(size if isinstance(size, int) else sizes[size] for size in output)

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 7
        assert self.profile is not None
        assert self._memory >= MEMORY
        if set(self._addresses) != set(self._engine.names):
            return refused(self._engine, "a tensor has no address")
        self.runs += 1
        capturing = self._engine.runtime.recording is not None
        assert self.runs > 1 or not capturing, "the first run of a context must not be captured"
        binding = self._engine.session.io_binding()
        for name, kind in self._engine.input_types.items():
            binding.bind_input(name, "cpu", 0, kind, self._shapes[name], self._addresses[name])
        for name, kind in self._engine.output_types.items():
            binding.bind_output(name, "cpu", 0, kind, self.get_tensor_shape(name), self._addresses[name])
        self._engine.runtime.enqueue(lambda: self._engine.session.run_with_iobinding(binding))
        return True


class FakeRuntimeCache:
    """Kernels that were compiled, in `tensorrt_rtx` alone."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, blob: bytes) -> bool:
        self.kernels = blob
        return True

    def serialize(self) -> bytes:
        return self.kernels or b"kernels"


class FakeRuntimeConfig:
    """With the cache of `tensorrt_rtx`."""

    def __init__(self) -> None:
        self.strategy: ExecutionContextAllocationStrategy | None = None
        self.cache: FakeRuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, cache: FakeRuntimeCache) -> bool:
        self.cache = cache
        return True


class FakeEngine:
    def __init__(self, path: Path, profiles: list[Any], logger: Any, runtime: FakeRuntime) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.profiles = profiles
        self.runtime = runtime
        self.contexts: list[FakeContext] = []
        self.logger = logger
        self._items = {item.name: item for item in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.names = list(self._items)
        self.input_types = {item.name: self._type(item.name) for item in self.session.get_inputs()}
        self.output_types = {item.name: self._type(item.name) for item in self.session.get_outputs()}

    @property
    def device_memory_size_v2(self) -> int:
        return MEMORY

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(name=TYPES[self._items[name].type])

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._items[name].shape)

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, strategy: Any) -> FakeContext:
        managed = ExecutionContextAllocationStrategy.USER_MANAGED
        assert strategy == managed or (strategy.strategy == managed and strategy.cache is not None)
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def _type(self, name: str) -> Any:
        return {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64, "BF16": 16}[TYPES[self._items[name].type]]


class FakeTensorRT:
    """The module, full or lean. `profiles` are those of the engines it loads, as a stamp has them."""

    ILogger = FakeLogger
    TensorLocation = TensorLocation
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, runtime: FakeRuntime, version: str) -> None:
        self.__version__ = version
        self.profiles: list[Any] = []
        self.engines: list[FakeEngine] = []
        self.failure: str | None = None
        module = self

        class Runtime:
            def __init__(self, logger: Any) -> None:
                self._logger = logger
                self._trusting = False

            @property
            def engine_host_code_allowed(self) -> bool:
                return self._trusting

            @engine_host_code_allowed.setter
            def engine_host_code_allowed(self, allowed: bool) -> None:
                self._trusting = allowed

            def deserialize_cuda_engine(self, serialized_engine: Any) -> FakeEngine | None:
                plan = bytes(serialized_engine).decode()
                failure = module.failure
                if plan.startswith(CODE) and not self._trusting:
                    failure = "IRuntime::getEngineHostCodeAllowed() is false"
                if failure is not None:
                    self._logger.log(Severity.ERROR, failure)
                    return None
                path = Path(plan.removeprefix(CODE))
                module.engines.append(FakeEngine(path, module.profiles, self._logger, runtime))
                return module.engines[-1]

        self.Runtime = Runtime
