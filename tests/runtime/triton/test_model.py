"""The model that Triton's Python backend loads, with a fake of the module that the backend gives it."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.answers import same
from xlm_runtime import pipeline
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.machine import available_cpus
from xlm_runtime.sessions import GpuOptions
from xlm_runtime.triton.model import TritonPythonModel, pipeline_arguments


@dataclass
class Tensor:
    name: str
    values: Any

    def as_numpy(self) -> Any:
        return self.values


@dataclass
class TritonError:
    message: str
    code: int
    INVALID_ARG, INTERNAL = 3, 1


@dataclass
class InferenceResponse:
    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


@dataclass
class InferenceRequest:
    inputs: list[Tensor]
    given: str = ""

    def parameters(self) -> str:
        return self.given


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the model logs to the fake backend."""
    lines: list[str] = []
    backend = SimpleNamespace(
        Tensor=Tensor,
        TritonError=TritonError,
        InferenceResponse=InferenceResponse,
        Logger=SimpleNamespace(log_error=lines.append),
        get_input_tensor_by_name=lambda request, name: next(each for each in request.inputs if each.name == name),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)  # type: ignore[arg-type]
    return lines


def arguments(folder: Path, **parameters: str) -> dict[str, str]:
    config = {
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
        "instance_group": [{"count": 2}],
    }
    return {
        "model_config": json.dumps(config),
        "model_repository": str(folder),
        "model_version": "3",
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
    }


def asking(texts: list[str], **parameters: Any) -> InferenceRequest:
    column = np.array([[text.encode()] for text in texts], dtype=np.object_)
    return InferenceRequest([Tensor("text", column)], json.dumps(parameters) if parameters else "")


def test_a_model_is_opened_asked_and_let_go(bundles: Bundles, tmp_path: Path, logged: list[str]) -> None:
    folder = bundles("text-classification")
    shutil.copytree(folder, tmp_path / "3" / "bundle")
    model = TritonPythonModel()
    model.initialize(arguments(tmp_path, task="text-classification", EXECUTION_ENV_PATH="/env.tar.gz"))
    texts = ["The old town.", "Маяк стоит на берегу."]
    found, refused, ranked = model.execute([asking(texts), asking([""]), asking(texts[:1], top_k=3)])
    pipe = pipeline("text-classification", folder)
    (answer,) = found.output_tensors
    assert (answer.name, answer.values.shape, answer.values.dtype) == ("answer", (2, 1), np.object_)
    same([json.loads(text) for text in answer.values[:, 0]], pipe(texts))
    same(json.loads(ranked.output_tensors[0].values[0, 0]), pipe(texts[0], top_k=3))
    assert refused.error == TritonError("The text is empty; give at least one word.", TritonError.INVALID_ARG)
    model.finalize()
    assert logged == []


def test_what_fails_in_the_server_is_logged(
    bundles: Bundles, tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundles("text-classification"), tmp_path / "3" / "bundle")
    model = TritonPythonModel()
    model.initialize(arguments(tmp_path, task="text-classification"))
    monkeypatch.setattr("xlm_runtime.triton.model.answer_requests", lambda pipe, requests: [MemoryError(), [b"1"]])
    failed, found = model.execute([asking(["The old town."]), asking(["The old town."])])
    assert failed.error == TritonError("MemoryError: ", TritonError.INTERNAL)
    assert found.output_tensors[0].values.tolist() == [[b"1"]]
    assert logged == ["MemoryError: "]


def test_a_bundle_that_is_damaged_is_not_served(tmp_path: Path, logged: list[str]) -> None:
    with pytest.raises(BundleError, match="expected a bundle written by"):
        TritonPythonModel().initialize(arguments(tmp_path, task="fill-mask"))


def test_the_options_in_config_pbtxt() -> None:
    cpus = available_cpus()
    assert pipeline_arguments({"task": "fill-mask", "SHM-REGION-PREFIX": "x"}, 1, None) == {
        "task": "fill-mask",
        "threads": cpus,
    }
    many = pipeline_arguments({"task": "fill-mask", "provider": "openvino", "max_tokens": "64"}, 2 * cpus, None)
    assert many == {"task": "fill-mask", "provider": "openvino", "max_tokens": 64, "threads": 1}
    one = pipeline_arguments({"task": "fill-mask", "provider": "tensorrt", "engine": "small"}, 1, 1)
    assert one == {"task": "fill-mask", "provider": "tensorrt", "gpu": GpuOptions(device=1, engine="small")}
    for given, message in (
        ({}, "The parameter 'task' is missing"),
        ({"task": "fill-mask", "thread": "2"}, "Unknown parameter 'thread' in config.pbtxt; expected some of task, "),
        ({"task": "fill-mask", "threads": "two"}, "no whole number: .*'two'"),
        ({"task": "fill-mask", "engine": "small"}, "The parameter 'engine' is 'small', but the model runs on the CPU"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline_arguments(given, 1, None)
