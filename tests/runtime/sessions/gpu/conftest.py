"""A machine with a GPU, made of fakes, and bundles with engines for it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.sessions.gpu.fake_tensorrt import CODE, FakeTensorRT
from tests.sharing import STATIC
from xlm_runtime.bundle import Bundle, file_sha256
from xlm_runtime.bundle.engine_stamp import EngineProfile, EngineStamp
from xlm_runtime.tasks import TensorSpec

VERSION = "10.9.0"

Sizes = dict[str, tuple[int, int, int]]

# smallest, optimal and largest sizes of the engines' profiles: prompts with any past, and one token with a past
LONGEST = 64
PROFILES: dict[str, Sizes] = {
    "small": {"batch": (1, 2, 2), "sequence": (1, 16, 16), "kept": (1, 2, 32)},
    "large": {"batch": (1, 4, 6), "sequence": (1, 32, LONGEST), "kept": (1, 6, 6 * LONGEST)},
    "decoding": {"batch": (1, 4, 8), "sequence": (1, 1, 1), "kept": (1, 4, 8)},
}
COMMON: Sizes = {"past_sequence": (0, 32, LONGEST), "num_choices": (1, 2, 4)}


@pytest.fixture(scope="session", autouse=True)
def real_bundles(bundles: Bundles) -> None:
    """Exports need the real engines, so they come before any fake."""
    for name in (
        "fill-mask",
        "multiple-choice",
        "question-answering",
        "text-classification",
        "text-generation",
        STATIC,
    ):
        bundles(name)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """CUDA's runtime library, with one device."""
    runtime = FakeRuntime()
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=runtime))
    return runtime


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, cuda: FakeRuntime) -> FakeTensorRT:
    """The module `tensorrt`, whose engines compute with ONNX Runtime on the CPU; no lean runtime is there."""
    module = FakeTensorRT(cuda, VERSION)
    for name in ("tensorrt_lean", "tensorrt_lean_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


@pytest.fixture
def onnxruntime_gpu(monkeypatch: pytest.MonkeyPatch, cuda: FakeRuntime) -> FakeOnnxRuntime:
    module = FakeOnnxRuntime(cuda)
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    return module


@pytest.fixture
def engine_bundle(bundles: Bundles, tmp_path: Path, tensorrt: FakeTensorRT) -> Callable[..., Path]:
    """A function that copies a bundle and gives it an engine, some of whose stamp may be changed."""

    def make(name: str, engine: str = "model", **changes: Any) -> Path:
        folder = tmp_path / name
        if not folder.exists():
            shutil.copytree(bundles(name), folder)
        bundle = Bundle.load(folder)
        graph = bundle.graphs[0]
        (folder / "engines").mkdir(exist_ok=True)
        plan = folder / "engines" / f"{engine}.plan"
        code = CODE if changes.get("lean_runtime") == "included" else ""
        plan.write_text(code + str(bundles(name) / graph.file))
        profiles = tuple(profile(name, sizes, graph.inputs, bundle) for name, sizes in PROFILES.items())
        tensorrt.profiles = [item.shapes for item in profiles]
        values = {
            "flavor": "tensorrt",
            "version": VERSION,
            "gpu_archs": ("sm80",),
            "precision": "fp32",
            "profiles": profiles,
            "graph": graph.file,
            "sources": {graph.file: bundle.files[graph.file]},
            "plan": f"engines/{engine}.plan",
            "plan_sha256": file_sha256(plan),
            "inputs": graph.inputs,
            "outputs": graph.outputs,
        }
        EngineStamp(**(values | changes)).write(plan.with_suffix(".json"))
        return folder

    return make


def profile(name: str, sizes: Sizes, inputs: tuple[TensorSpec, ...], bundle: Bundle) -> EngineProfile:
    shapes = {}
    for spec in inputs:
        ends = []
        for end in range(3):
            known = {axis: values[end] for axis, values in (COMMON | sizes).items()}
            ends.append(tuple(size(axis, known, bundle) for axis in spec.axes))
        shapes[spec.name] = tuple(ends)
    return EngineProfile(name, shapes)  # type: ignore[arg-type]


def size(axis: str, known: dict[str, int], bundle: Bundle) -> int:
    return sum(known[part] if part in known else getattr(bundle.config, part) for part in axis.split(" + "))
