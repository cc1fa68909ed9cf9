"""Engines: what they compute, what they refuse, and that their memory stays flat."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Bundles
from tests.runtime.memory_growth import STATM, memory_growth
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import EngineError, InputError, MissingExtraError
from xlm_runtime.machine import available_cpus
from xlm_runtime.sessions import Session, open_session
from xlm_runtime.sessions.session import narrow_to_bfloat16, widen_bfloat16

# Resident memory that 950 calls may add once 50 have been made; on the tiny graph they add about 100 kB. What a larger
# graph adds is measured in tests/runtime_parity/test_memory.py.
MEMORY_GROWTH = 1_000_000


@pytest.fixture(scope="module")
def graph(bundles: Bundles) -> Path:
    return bundles("feature-extraction") / "model.onnx"


def inputs(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.full((rows, length), 20, np.int64)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "langs": np.zeros_like(ids)}


def test_names_and_outputs(graph: Path) -> None:
    session: Session = open_session(graph)
    assert session.input_names == ("input_ids", "attention_mask", "langs")
    assert session.output_names == ("last_hidden_state",)
    output = session.run(inputs(2, 5))["last_hidden_state"]
    assert output.shape == (2, 5, 32)
    assert np.isfinite(output).all()


def test_openvino_gives_the_same(graph: Path) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    session: Session = open_session(graph, "openvino")
    assert session.input_names == ("input_ids", "attention_mask", "langs")
    for rows, length in ((2, 5), (1, 1), (3, 64)):
        expected = open_session(graph).run(inputs(rows, length))["last_hidden_state"]
        output = session.run(inputs(rows, length))["last_hidden_state"]
        np.testing.assert_allclose(output, expected, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
    with pytest.raises(EngineError, match="inputs are input_ids, attention_mask, langs; given: langs"):
        session.run({"langs": np.zeros((1, 1), np.int64)})
    with pytest.raises(EngineError, match="OpenVINO cannot load"):
        open_session(graph.parent / "config.json", "openvino")


@pytest.mark.parametrize(("provider", "package"), [("cpu", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_engine_names_its_extra(graph: Path, monkeypatch, provider: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    extra = {"cpu": "cpu"}.get(provider, provider)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{package}'.*xlm-onnx\[{extra}\]"):
        open_session(graph, provider)


def fake_engine(monkeypatch: pytest.MonkeyPatch, available: list[str], started: list[str]) -> None:
    """An onnxruntime that offers some providers, and whose sessions start others."""

    class Options(SimpleNamespace):
        def add_run_config_entry(self, key: str, value: str) -> None: ...

    def start(*args: Any, **options: Any) -> Any:
        return SimpleNamespace(get_providers=lambda: started)

    monkeypatch.setitem(
        sys.modules,
        "onnxruntime",
        SimpleNamespace(
            get_available_providers=lambda: available,
            SessionOptions=Options,
            RunOptions=Options,
            InferenceSession=start,
        ),
    )


def test_a_provider_that_is_not_there(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_engine(monkeypatch, ["CPUExecutionProvider"], [])
    with pytest.raises(EngineError, match=r"has only CPUExecutionProvider.*xlm-onnx\[gpu\]"):
        open_session(graph, "cuda")


def test_a_provider_that_does_not_start_is_no_silent_fallback(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    fake_engine(monkeypatch, both, ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=FakeRuntime()))
    with pytest.raises(EngineError, match="could not start CUDAExecutionProvider and offers CPUExecutionProvider"):
        open_session(graph, "cuda")


def test_bad_options_and_files(graph: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown provider 'tpu'"):
        open_session(graph, "tpu")
    with pytest.raises(InputError, match="threads is -1"):
        open_session(graph, threads=-1)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load"):
        open_session(tmp_path / "absent.onnx")
    with pytest.raises(EngineError, match=r"ONNX Runtime failed on input_ids \(1, 5\)"):
        open_session(graph).run({"input_ids": inputs(1, 5)["input_ids"]})


def test_threads_follow_the_cpus(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    opened: list[onnxruntime.InferenceSession] = []

    class Session(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            opened.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    open_session(graph)
    open_session(graph, threads=1)
    assert [session.get_session_options().intra_op_num_threads for session in opened] == [available_cpus(), 1]


@pytest.mark.skipif(not STATM.exists(), reason="reads the process's memory from /proc")
def test_memory_is_flat_over_a_thousand_calls_of_varying_shapes(graph: Path) -> None:
    calls, _ = memory_growth(graph, 64)
    assert calls < MEMORY_GROWTH


@given(st.floats(width=32, allow_nan=False))
def test_bfloat16_rounds_to_the_nearest(value: float) -> None:
    bits = narrow_to_bfloat16(np.array([value], np.float32))
    (near,) = widen_bfloat16(bits)
    assert narrow_to_bfloat16(np.array([near])) == bits
    if np.isfinite(near):
        assert abs(float(near) - value) <= max(abs(value) * 2**-8, 2.0**-134)


def test_bfloat16_special_values() -> None:
    values = np.array([np.nan, np.inf, -np.inf, -0.0], np.float32)
    np.testing.assert_array_equal(widen_bfloat16(narrow_to_bfloat16(values)), values)
