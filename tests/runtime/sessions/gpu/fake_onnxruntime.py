"""`onnxruntime` as if it had a GPU: providers that it lacks compute on the CPU, on addresses of the host."""

# ruff: noqa: N802

from __future__ import annotations

import os
from typing import Any

import onnxruntime

from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime

OPTIONS = ("gpu_graph_id", "disable_synchronize_execution_providers")
NAMES = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]


class _Binding:
    def __init__(self, binding: Any) -> None:
        self.real = binding

    def bind_input(self, name: str, kind: str, *rest: Any) -> None:
        assert kind == "cuda"
        self.real.bind_input(name, "cpu", *rest)

    def bind_output(self, name: str, kind: str, *rest: Any) -> None:
        assert kind == "cuda"
        self.real.bind_output(name, "cpu", *rest)


class _Session:
    def __init__(self, module: FakeOnnxRuntime, path: str, options: Any, providers: list[Any]) -> None:
        self._module = module
        path = module.stand_ins.get(path, path)
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        given = [item for item in providers if not isinstance(item, str)]
        self._capturing = any(values.get("enable_cuda_graph") == "1" for _, values in given)
        self._ran: set[_Binding] = set()
        self._providers = [item if isinstance(item, str) else item[0] for item in providers]
        self.get_inputs, self.get_outputs = self._session.get_inputs, self._session.get_outputs

    def get_providers(self) -> list[str]:
        return [name for name in self._providers if name in self._module.starting]

    def disable_fallback(self) -> None:
        self._module.fallback_disabled = True

    def io_binding(self) -> _Binding:
        self._module.bindings += 1
        return _Binding(self._session.io_binding())

    def run_with_iobinding(self, binding: _Binding, options: Any) -> None:
        """Ends with a wait, and where the session allows it with a graph, unless the options say otherwise."""
        module = self._module
        entries = {name: options.get_run_config_entry(name) for name in OPTIONS} if options else {}
        if self._capturing:
            assert entries["gpu_graph_id"] == "-1", "it would capture a graph itself, and keep it"
        module.runs += 1
        if module.failure:
            raise RuntimeError(module.failure)
        if module.cuda.recording is not None:
            assert self._capturing, "some of its operators might run on the CPU"
            assert binding in self._ran, "a first run allocates memory, which cannot be captured"
        self._ran.add(binding)
        module.cuda.enqueue(lambda: self._session.run_with_iobinding(binding.real))
        if entries.get("disable_synchronize_execution_providers") != "1":
            module.cuda.cudaStreamSynchronize(7)


class FakeOnnxRuntime:
    """The module; `starting` are the providers that start, and the rest tells what was done."""

    __version__ = onnxruntime.__version__

    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions

    def __init__(self, cuda: FakeRuntime) -> None:
        self.cuda = cuda
        self.starting = list(NAMES)
        self.providers: list[Any] = []
        self.fallback_disabled = False
        self.failure: str | None = None
        self.bindings = self.runs = 0
        self.flash_from: str | None = None
        self.stand_ins: dict[str, str] = {}  # graph → another that the CPU can compute
        self.uncapturable: str | None = None  # why a graph cannot be captured

    def get_available_providers(self) -> list[str]:
        return NAMES

    def InferenceSession(self, path: str, options: Any, providers: list[Any]) -> Any:
        self.providers = providers
        self.flash_from = os.environ.get("ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV")
        if self.uncapturable and providers[0][1].get("enable_cuda_graph") == "1":
            raise RuntimeError(self.uncapturable)
        if providers == ["CPUExecutionProvider"]:
            return onnxruntime.InferenceSession(path, options, providers=providers)
        return _Session(self, path, options, providers)
