"""What Triton's Python backend loads: texts in, answers out, by a pipeline on the bundle beside `model.py`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.errors import InputError, XLMError
from xlm_runtime.machine import available_cpus
from xlm_runtime.pipelines import pipeline
from xlm_runtime.providers import AUTO, PROVIDERS
from xlm_runtime.sessions import GpuOptions
from xlm_runtime.triton.requests import Answer, Request, answer_requests

BUNDLE, TEXT, ANSWER = "bundle", "text", "answer"
"""The bundle's folder in the version's folder; the input's name and the output's."""

OPTIONS: dict[str, type] = {
    "task": str,
    "provider": str,
    "precision": str,
    "threads": int,
    "max_tokens": int,
    "engine": str,
}
"""What `parameters` of config.pbtxt may hold beside the backend's own, whose names are in capitals: arguments of
`pipeline`, and `GpuOptions.engine`."""


class TritonPythonModel:
    """A pipeline, by the names that the backend calls."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the bundle; when it is open the model is ready.

        Args:
            args: the backend's: the model's configuration as JSON, its folder and version, its device.

        Raises:
            XLMError: options or a bundle that cannot be used. Triton shows it and does not serve the model.
        """
        self._backend: Any = import_module("triton_python_backend_utils")
        config = json.loads(args["model_config"])
        given = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        instances = sum(group.get("count", 1) for group in config.get("instance_group", []))
        device = int(args["model_instance_device_id"]) if args["model_instance_kind"] == "GPU" else None
        folder = Path(args["model_repository"], args["model_version"], BUNDLE)
        self._pipe: Any = pipeline(model=folder, **pipeline_arguments(given, instances, device))

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests that Triton's batcher put together; one response for each, in order."""
        answers = answer_requests(self._pipe, [self._read(request) for request in requests])
        return [self._response(answer) for answer in answers]

    def finalize(self) -> None:
        """Let the bundle go."""
        self._pipe = None

    def _read(self, request: Any) -> Request:
        texts = self._backend.get_input_tensor_by_name(request, TEXT).as_numpy()  # (batch, 1) of bytes
        return Request(texts.ravel().tolist(), json.loads(request.parameters() or "{}"))

    def _response(self, answer: Answer) -> Any:
        backend = self._backend
        if isinstance(answer, Exception):
            by_caller = isinstance(answer, InputError)
            message = str(answer) if isinstance(answer, XLMError) else f"{type(answer).__name__}: {answer}"
            if not by_caller:
                backend.Logger.log_error(message)
            code = backend.TritonError.INVALID_ARG if by_caller else backend.TritonError.INTERNAL
            return backend.InferenceResponse(error=backend.TritonError(message, code))
        return backend.InferenceResponse([backend.Tensor(ANSWER, _column(answer))])


def pipeline_arguments(given: Mapping[str, str], instances: int, device: int | None) -> dict[str, Any]:
    """The arguments of `pipeline`, from the `parameters` of config.pbtxt.

    Args:
        given: some of `OPTIONS`; those in capitals are the backend's own.
        instances: of the model; by default they share the CPUs.
        device: number of the CUDA device of this instance, None on the CPU.

    Raises:
        InputError: an unknown name, no task, or a number that is none.
    """
    known = {name: value for name, value in given.items() if not name.isupper()}
    for name in known:
        if name not in OPTIONS:
            raise InputError(f"Unknown parameter '{name}' in config.pbtxt; expected some of {', '.join(OPTIONS)}.")
    if "task" not in known:
        raise InputError("The parameter 'task' is missing in config.pbtxt; write it with `xlm-export triton`.")
    try:
        arguments: dict[str, Any] = {name: OPTIONS[name](value) for name, value in known.items()}
    except ValueError as error:
        raise InputError(f"A parameter in config.pbtxt is no whole number: {error}.") from error
    engine, provider = arguments.pop("engine", None), arguments.get("provider", "cpu")
    on_gpu = provider == AUTO or (provider in PROVIDERS and PROVIDERS[provider].on_gpu)
    if on_gpu and (device is not None or engine is not None):
        arguments["gpu"] = GpuOptions(device=device or 0, engine=engine)
    elif engine is not None:
        raise InputError(f"The parameter 'engine' is '{engine}', but the model runs on the CPU; leave one of them out.")
    if device is None:
        arguments.setdefault("threads", max(1, available_cpus() // max(1, instances)))
    return arguments


def _column(values: Sequence[bytes]) -> Any:
    """(batch, 1) of bytes."""
    column = np.empty((len(values), 1), dtype=np.object_)
    column[:, 0] = values
    return column
