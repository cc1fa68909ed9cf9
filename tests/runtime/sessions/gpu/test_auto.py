"""Provider "auto" on a GPU of fakes: an engine that fits, then CUDA, then the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from xlm_runtime import GpuOptions, InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.timings import Record, Timing
from xlm_runtime.cli import main as cli
from xlm_runtime.machine import this_machine, visible_gpu
from xlm_runtime.providers import provider_packages

TASK = "text-classification"
Engines = Callable[..., Path]


def test_an_engine_that_fits_comes_first(engine_bundle: Engines, onnxruntime_gpu: FakeOnnxRuntime) -> None:
    opened = pipeline(TASK, engine_bundle(TASK), "auto").model
    assert opened.provider == "tensorrt"
    assert "of tensorrt, cuda, cpu, openvino it is the first that is there" in opened.reason


@pytest.mark.parametrize("misfit", [{"gpu_archs": ("sm70",)}, {"version": "1.0"}, {"precision": "fp16"}])
def test_an_engine_that_does_not_fit_is_passed_over(
    engine_bundle: Engines, onnxruntime_gpu: FakeOnnxRuntime, misfit: dict[str, object]
) -> None:
    assert pipeline(TASK, engine_bundle(TASK, **misfit), "auto").model.provider == "cuda"


def test_cuda_needs_its_onnxruntime(engine_bundle: Engines) -> None:
    # the device is there, but the installed onnxruntime has the CPU alone
    assert pipeline(TASK, engine_bundle(TASK, gpu_archs=("sm70",)), "auto").model.provider == "cpu"


def test_a_device_that_was_named_has_to_be_there(bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime) -> None:
    with pytest.raises(InputError, match="device is 7; expected 0 to"):
        pipeline(TASK, bundles(TASK), "auto", gpu=GpuOptions(device=7))


def test_a_record_of_this_device_decides(engine_bundle: Engines, onnxruntime_gpu: FakeOnnxRuntime) -> None:
    folder = engine_bundle(TASK)
    bundle = Bundle.load(folder)
    found = visible_gpu()
    assert found is not None
    digest = bundle.digest(bundle.graphs[0])
    times = {"tensorrt": 1.0, "cpu": 2.0, "cuda": 3.0}
    timings = tuple(Timing("model.onnx", digest, provider, {"1x16": ms}) for provider, ms in times.items())
    record = Record(this_machine(2, found[0], provider_packages()), "2026-01-31", timings)
    replace(bundle, timings=(record.to_dict(),)).write()
    assert pipeline(TASK, folder, "auto", 2).model.provider == "tensorrt"
    (folder / "engines" / "model.json").unlink()  # the engine that was measured is gone
    opened = pipeline(TASK, folder, "auto", 2, gpu=GpuOptions(cuda_graphs=True)).model
    assert opened.provider == "cpu", "and options for a GPU count for nothing there"


def test_autotune_measures_what_the_device_has(
    engine_bundle: Engines, onnxruntime_gpu: FakeOnnxRuntime, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    monkeypatch.setattr("xlm_runtime.autotune.SECONDS", 0.0)
    folder = engine_bundle(TASK)
    assert cli.main(["autotune", str(folder), "--threads", "1"]) == 0
    (entry,) = Bundle.load(folder).timings
    measured = {timing["provider"] for timing in entry["timings"]}
    assert {"cpu", "cuda", "tensorrt"} <= measured
    assert entry["gpu"] == visible_gpu()[0]  # type: ignore[index]
    assert entry["gpu"] in capsys.readouterr().out
    assert pipeline(TASK, folder, "auto", 1).model.provider in measured
