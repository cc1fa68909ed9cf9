"""Engines behind the public API: whole pipelines on a GPU of fakes, which compute with ONNX Runtime on the CPU."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.conftest import VERSION
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime, cudaError_t
from tests.runtime.sessions.gpu.fake_tensorrt import FakeContext, FakeTensorRT
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import EngineError, GenerationOptions, GpuOptions, InputError, MissingExtraError, pipeline
from xlm_runtime.cli import main as cli
from xlm_runtime.sessions import open_session

Engines = Callable[..., Path]

TEXTS = [
    "The old lighthouse stands at the edge of the small town.",
    "Anna Miller lives in London.",
    "ship",
    "In winter only two ships go to the island, and both are almost empty.",
] * 3

CALLS: dict[str, Callable[[Any], Any]] = {
    "feature-extraction": lambda pipe: pipe(TEXTS),
    "text-classification": lambda pipe: pipe(TEXTS, top_k=None),
    "token-classification": lambda pipe: pipe(TEXTS),
    "fill-mask": lambda pipe: pipe([f"{text} <mask> <mask>" for text in TEXTS]),
    "multiple-choice": lambda pipe: pipe({"prompt": TEXTS[0], "choices": TEXTS[1:4]}),
    "question-answering": lambda pipe: pipe({"question": "Who lives in London?", "context": " ".join(TEXTS[:4])}),
}


def assert_same(answer: Any, expected: Any) -> None:
    """The same labels, words and places; numbers as near as another batch gives them."""
    if isinstance(expected, dict):
        assert set(answer) == set(expected)
        for key, value in expected.items():
            assert_same(answer[key], value)
    elif isinstance(expected, list | tuple):
        assert len(answer) == len(expected)
        for one, other in zip(answer, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float | np.ndarray):
        np.testing.assert_allclose(answer, expected, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
    else:
        assert answer == expected


@pytest.mark.parametrize("task", list(CALLS))
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_answers_are_those_of_the_cpu(
    bundles: Bundles, engine_bundle: Engines, cuda: FakeRuntime, task: str, cuda_graphs: bool
) -> None:
    expected = CALLS[task](pipeline(task, bundles(task)))
    pipe = pipeline(task, engine_bundle(task), "tensorrt", gpu=GpuOptions(cuda_graphs=cuda_graphs))
    for _ in range(4):
        assert_same(CALLS[task](pipe), expected)
    assert ("cudaGraphLaunch" in cuda.calls) == cuda_graphs


def test_the_other_side_of_a_fork(engine_bundle: Engines) -> None:
    """A GPU cannot be used there, and an error says so."""
    pipe = pipeline("text-classification", engine_bundle("text-classification"), "tensorrt")
    child = os.fork()
    if not child:
        try:
            pipe(TEXTS)
        except EngineError as error:
            os._exit(0 if "a GPU cannot be used on the other side of a fork" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


GENERATIONS = {
    "greedy": GenerationOptions(max_new_tokens=20),
    "beams": GenerationOptions(max_new_tokens=16, num_beams=2, num_return_sequences=2, return_scores=True),
    "drawn": GenerationOptions(max_new_tokens=16, do_sample=True, seed=3, num_return_sequences=2),
    "long": GenerationOptions(max_new_tokens=40, ignore_eos=True),
}


@pytest.mark.parametrize("options", GENERATIONS.values(), ids=GENERATIONS)
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_generation_with_the_cache_on_the_device(
    bundles: Bundles, engine_bundle: Engines, cuda: FakeRuntime, options: GenerationOptions, cuda_graphs: bool
) -> None:
    texts = ["The old", "In winter only two ships go to the", "ship"]
    expected = pipeline("text-generation", bundles("text-generation"))(texts, options)
    pipe = pipeline(
        "text-generation", engine_bundle("text-generation"), "tensorrt", gpu=GpuOptions(cuda_graphs=cuda_graphs)
    )
    before = len(cuda.blocks)
    for _ in range(3):
        assert_same(pipe(texts, options), expected)
    first = len(cuda.blocks)
    assert_same(pipe(texts, options), expected)
    assert len(cuda.blocks) == first, "a generation like the last one takes no more memory"
    assert first > before


@pytest.mark.parametrize("beams", [1, 2])
def test_more_texts_than_a_profile_takes(
    bundles: Bundles, engine_bundle: Engines, tensorrt: FakeTensorRT, beams: int
) -> None:
    texts = ["The old", "In winter only two ships go to the", "ship", "Anna", "The film was"] * 4
    options = GenerationOptions(max_new_tokens=6, num_beams=beams)
    expected = pipeline("text-generation", bundles("text-generation"))(texts, options)
    pipe = pipeline("text-generation", engine_bundle("text-generation"), "tensorrt")
    assert_same(pipe(texts, options), expected)
    assert pipe.model.max_rows(10, 16) == 6
    assert pipe.model.max_rows(17, 65) == 1, "none: the call for one row says what is wrong"


def test_only_logits_come_back(engine_bundle: Engines, cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes from and to the device in a step: the chosen token's logits, ids and masks, but no keys and values."""
    pipe = pipeline("text-generation", engine_bundle("text-generation"), "tensorrt")
    moved: dict[str, list[int]] = {"in": [], "out": []}
    real = cuda.cudaMemcpyAsync

    def note(to: int, source: int, size: int, kind: str, stream: int) -> Any:
        moved[kind].append(size)
        return real(to, source, size, kind, stream)

    monkeypatch.setattr(cuda, "cudaMemcpyAsync", note)
    cuda.calls.clear()
    pipe(["The old"] * 2, GenerationOptions(max_new_tokens=10, ignore_eos=True))
    logits = 2 * pipe.model.config.vocab_size * 4
    assert moved["out"] == [logits] * 10
    assert max(moved["in"]) < 3000, "five small inputs, each aligned to 256 bytes"
    assert cuda.calls.count("cudaMemcpy2DAsync") == 10, "new keys and values of all layers are one copy a step"


def test_scores_are_those_of_the_cpu(bundles: Bundles, engine_bundle: Engines) -> None:
    expected = pipeline("text-generation", bundles("text-generation")).score(TEXTS)
    assert_same(pipeline("text-generation", engine_bundle("text-generation"), "tensorrt").score(TEXTS), expected)


@pytest.mark.parametrize("past", [0, 5])
def test_a_past_in_numpy_comes_back_in_numpy(bundles: Bundles, engine_bundle: Engines, past: int) -> None:
    """A graph with a cache is a function of arrays too, for programs that keep the past themselves."""
    session = open_session(engine_bundle("text-generation") / "model.onnx", "tensorrt")
    cpu = open_session(bundles("text-generation") / "model.onnx")
    rng = np.random.default_rng(0)
    inputs = {
        "input_ids": rng.integers(14, 200, (3, 4)),
        "attention_mask": rng.integers(0, 2, (3, past + 4)) | (np.arange(past + 4) == past + 3),
        "position_ids": np.tile(np.arange(past, past + 4), (3, 1)),
        "langs": np.ones((3, 4), np.int64),
        "logit_positions": np.array([3, 7, 11]),
    }
    names = [name for name in session.input_names if name.startswith("past_key_values")]
    inputs |= {name: rng.normal(size=(3, 4, past, 8)).astype(np.float32) for name in names}
    expected = cpu.run(inputs)
    for _ in range(3):
        outputs = session.run(inputs)
        assert set(outputs) == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(outputs[name], value, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def batch(rows: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(rows).integers(14, 200, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "langs": np.ones_like(ids)}


def test_a_bucket_is_captured_once_and_replayed(
    bundles: Bundles, engine_bundle: Engines, cuda: FakeRuntime, tensorrt: FakeTensorRT
) -> None:
    folder = engine_bundle("text-classification")
    session = open_session(folder / "model.onnx", "tensorrt")
    cpu = open_session(bundles("text-classification") / "model.onnx")
    # 9 to 15 tokens are one bucket, and 3 rows are another than 2; what is captured is found in the log
    counts = []
    for rows, length in [(2, 9), (2, 12), (2, 15), (2, 16), (2, 11), (3, 11), (3, 12), (3, 13)]:
        inputs = batch(rows, length)
        np.testing.assert_allclose(session.run(inputs)["logits"], cpu.run(inputs)["logits"], atol=RUNTIME_FP32)
        counts.append((cuda.calls.count("cudaGraphInstantiate"), cuda.calls.count("cudaGraphLaunch")))
    assert counts == [(0, 0), (0, 0), (1, 1), (1, 2), (1, 3), (1, 3), (1, 3), (2, 4)]
    assert [context.profile for context in tensorrt.engines[0].contexts] == [0, 0, 1, 1]


def test_the_graph_used_least_gives_way(engine_bundle: Engines, cuda: FakeRuntime) -> None:
    folder = engine_bundle("text-classification")
    session = open_session(folder / "model.onnx", "tensorrt", gpu=GpuOptions(max_graphs=2))
    for rows in (1, 2, 1, 2, 1, 2, 2):
        session.run(batch(rows, 8))
    assert cuda.calls.count("cudaGraphInstantiate") == 2
    for _ in range(6):
        session.run(batch(3, 8))
    assert "cudaGraphExecDestroy" not in cuda.calls, "twice as often as the other one, and not more"
    session.run(batch(3, 8))
    assert cuda.calls.count("cudaGraphExecDestroy") == 1
    launched = cuda.calls.count("cudaGraphLaunch")
    session.run(batch(2, 8))
    assert cuda.calls.count("cudaGraphLaunch") == launched + 1, "of the other two the one used more is still there"
    session.run(batch(1, 8))
    assert cuda.calls.count("cudaGraphLaunch") == launched + 1


def test_a_context_that_cannot_be_captured_yet(
    engine_bundle: Engines, cuda: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT-RTX compiles kernels beside the first runs; until then they run as they are."""
    ready = [False, False, True]
    monkeypatch.setattr(FakeContext, "is_stream_capturable", lambda self, stream: ready.pop(0), raising=False)
    session = open_session(engine_bundle("text-classification") / "model.onnx", "tensorrt")
    counts = []
    for _ in range(7):
        session.run(batch(1, 8))
        counts.append(cuda.calls.count("cudaGraphLaunch"))
    assert counts == [0, 0, 0, 0, 1, 2, 3]


def test_tensorrt_rtx_keeps_the_kernels_it_compiles(
    bundles: Bundles, engine_bundle: Engines, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt, "IRuntimeCache", object, raising=False)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", tensorrt)
    folder = engine_bundle("text-classification", flavor="tensorrt-rtx")
    expected = pipeline("text-classification", bundles("text-classification"))("Good!")
    kernels = folder / "engines" / "model.sm80.kernels"
    for _ in range(2):
        pipe = pipeline("text-classification", folder, "tensorrt")
        assert_same(pipe("Good!"), expected)
        del pipe
        gc.collect()
        assert kernels.read_bytes() == b"kernels"
    elsewhere = folder / "absent" / "folder"
    pipe = pipeline("text-classification", folder, "tensorrt", engine_cache=elsewhere)
    assert_same(pipe("Good!"), expected)
    del pipe
    gc.collect()
    assert not elsewhere.exists(), "kernels that cannot be kept are no error"


def test_memory_is_allocated_once_and_given_back(engine_bundle: Engines, cuda: FakeRuntime) -> None:
    folder = engine_bundle("text-classification")
    session = open_session(folder / "model.onnx", "tensorrt")
    before = cuda.used
    for rows in range(1, 7):
        for length in range(1, 65, 7):
            session.run(batch(rows, length))
    assert cuda.used == before
    assert cuda.streams == 1
    del session
    gc.collect()
    assert (cuda.blocks, cuda.pinned, cuda.streams) == ({}, {}, 0)


def test_a_large_batch_runs_in_parts(bundles: Bundles, engine_bundle: Engines, tensorrt: FakeTensorRT) -> None:
    session = open_session(engine_bundle("text-classification") / "model.onnx", "tensorrt")
    cpu = open_session(bundles("text-classification") / "model.onnx")
    inputs = batch(45, 20)
    np.testing.assert_allclose(session.run(inputs)["logits"], cpu.run(inputs)["logits"], atol=RUNTIME_FP32)
    with pytest.raises(
        EngineError, match=r"No profile of the engine takes batch 1, sequence 65. It has small: batch 1"
    ):
        session.run(batch(3, 65))
    with pytest.raises(EngineError, match="inputs are input_ids, attention_mask, langs; given: langs"):
        session.run({"langs": np.zeros((1, 1), np.int64)})


def test_threads_take_turns(bundles: Bundles, engine_bundle: Engines) -> None:
    model = pipeline("text-generation", engine_bundle("text-generation"), "tensorrt")
    texts = ["The old", "In winter only two ships go to the", "ship", "Anna lives"] * 2
    options = GenerationOptions(max_new_tokens=12, ignore_eos=True)
    cpu = pipeline("text-generation", bundles("text-generation"))
    expected = [cpu(text, options) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: model(text, options), texts))
    assert_same(answers, expected)


# what does not fit


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "10.8.0"}, "was built by tensorrt 10.8.0, but 10.9.0 is installed"),
        ({"gpu_archs": ("sm89", "sm90")}, "was built for sm89, sm90, but this GPU is sm80"),
        ({"sources": {"model.onnx": "0" * 64}}, "was built from another 'model.onnx' than the bundle holds now"),
        ({"plan_sha256": "0" * 64}, "has changed since it was built"),
    ],
)
def test_an_engine_that_does_not_fit_says_how_to_build_another(
    engine_bundle: Engines, cuda: FakeRuntime, tensorrt: FakeTensorRT, changes: dict[str, Any], why: str
) -> None:
    folder = engine_bundle("text-classification", **changes)
    with pytest.raises(EngineError, match=rf"{why}.*xlm-export engine {folder} --flavor tensorrt --precision fp32"):
        pipeline("text-classification", folder, "tensorrt")
    assert not tensorrt.engines, "the plan was never loaded"
    assert (cuda.blocks, cuda.streams) == ({}, 0)


def test_the_engine_that_fits_is_taken(engine_bundle: Engines, tensorrt: FakeTensorRT) -> None:
    engine_bundle("text-classification", "a", gpu_archs=("sm90",))
    engine_bundle("text-classification", "b", flavor="tensorrt-rtx", version="1.0")
    folder = engine_bundle("text-classification", "c")
    pipeline("text-classification", folder, "tensorrt")("Good!")
    assert len(tensorrt.engines) == 1
    with pytest.raises(EngineError, match="was built for sm90"):
        pipeline("text-classification", folder, "tensorrt", gpu=GpuOptions(engine="a"))
    with pytest.raises(EngineError, match=r"has no engine 'd', only a \(fp32, from model.onnx\), b"):
        pipeline("text-classification", folder, "tensorrt", gpu=GpuOptions(engine="d"))
    with pytest.raises(EngineError, match=r"no engine in precision 'fp16', only a .* --precision fp16"):
        pipeline("text-classification", folder, "tensorrt", precision="fp16")
    open_session(folder / "model.onnx", "tensorrt", gpu=GpuOptions(engine="c")).run(batch(1, 4))


@pytest.fixture
def lean(cuda: FakeRuntime, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeTensorRT]:
    """A function that puts the lean runtime, in a version, in the place of TensorRT."""

    def install(version: str = VERSION, name: str = "tensorrt_lean") -> FakeTensorRT:
        module = FakeTensorRT(cuda, version)
        module.profiles = tensorrt.profiles
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return install


LEAVE = GpuOptions(engine_host_code=True)


@pytest.mark.parametrize("name", ["tensorrt_lean", "tensorrt_lean_bindings"])
@pytest.mark.parametrize("included", [True, False])
def test_the_lean_runtime_answers_as_the_cpu(
    bundles: Bundles, engine_bundle: Engines, lean: Callable[..., FakeTensorRT], name: str, included: bool
) -> None:
    expected = CALLS["text-classification"](pipeline("text-classification", bundles("text-classification")))
    folder = engine_bundle("text-classification", lean_runtime="included" if included else "excluded")
    module = lean(name=name)
    pipe = pipeline("text-classification", folder, "tensorrt", gpu=LEAVE if included else None)
    assert_same(CALLS["text-classification"](pipe), expected)
    assert len(module.engines) == 1


def test_a_version_compatible_engine_in_the_full_runtime(engine_bundle: Engines, tensorrt: FakeTensorRT) -> None:
    for kind in ("included", "excluded"):
        folder = engine_bundle("text-classification", lean_runtime=kind)
        assert pipeline("text-classification", folder, "tensorrt", gpu=LEAVE)("Good!")
    assert len(tensorrt.engines) == 2


def test_code_in_a_plan_needs_leave(engine_bundle: Engines, tensorrt: FakeTensorRT) -> None:
    """From whoever asks: by name, or as one of the providers of "auto"."""
    folder = engine_bundle("text-classification", "a", gpu_archs=("sm70",))
    engine_bundle("text-classification", "b", lean_runtime="included")
    message = r"'.*b\.plan' carries TensorRT's lean runtime, code .*engine_host_code=True\) or --engine-host-code"
    with pytest.raises(EngineError, match=message):
        pipeline("text-classification", folder, "tensorrt")
    assert pipeline("text-classification", folder, "auto").model.provider == "cpu"
    assert not tensorrt.engines, "the plan was never loaded"
    assert pipeline("text-classification", folder, "auto", gpu=LEAVE).model.provider == "tensorrt"
    assert cli.main(["text-classification", str(folder), "Good!", "--provider", "tensorrt", "--engine-host-code"]) == 0
    engine_bundle("text-classification", "c", lean_runtime="excluded")
    pipeline("text-classification", folder, "tensorrt")
    assert len(tensorrt.engines) == 3


@pytest.mark.parametrize(
    ("kind", "version", "message"),
    [
        ("included", "10.9.1", None),
        ("included", "10.13.0", None),
        ("included", "10.8.9", r"by tensorrt 10.9.0, but 10.8.9 is .* that version and later ones of tensorrt 10\."),
        ("included", "11.0.0", r"by tensorrt 10.9.0, but 11.0.0 is .* that version and later ones of tensorrt 10\."),
        ("excluded", VERSION, None),
        ("excluded", "10.9.1", r"was built by tensorrt 10.9.0, but 10.9.1 is installed, which cannot load it\."),
        (None, VERSION, r"is not version-compatible, and the lean runtime of tensorrt, 10.9.0, runs no other\."),
    ],
)
def test_versions_of_the_lean_runtime(
    engine_bundle: Engines, lean: Callable[..., FakeTensorRT], kind: str | None, version: str, message: str | None
) -> None:
    folder = engine_bundle("text-classification", lean_runtime=kind)
    module = lean(version)
    if message is None:
        assert pipeline("text-classification", folder, "tensorrt", gpu=LEAVE)("Good!")
        return
    with pytest.raises(EngineError, match=rf"{message} Build it again: (.*)") as caught:
        pipeline("text-classification", folder, "tensorrt", gpu=LEAVE)
    assert str(caught.value).endswith("--version-compatible") == (kind is None)
    assert not module.engines


def test_the_module_that_fits_is_taken(
    engine_bundle: Engines, cuda: FakeRuntime, tensorrt: FakeTensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT of another version stands beside the lean runtime of the engine's."""
    folder = engine_bundle("text-classification", lean_runtime="excluded")
    other = FakeTensorRT(cuda, "10.8.0")
    monkeypatch.setitem(sys.modules, "tensorrt", other)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", tensorrt)
    pipeline("text-classification", folder, "tensorrt")
    assert (len(other.engines), len(tensorrt.engines)) == (0, 1)


def test_no_engine(bundles: Bundles, cuda: FakeRuntime) -> None:
    folder = bundles("text-classification")
    command = f"xlm-export engine {folder} --flavor tensorrt --precision fp32"
    with pytest.raises(EngineError, match=f"has no engine. Build one: {command}"):
        pipeline("text-classification", folder, "tensorrt")
    with pytest.raises(EngineError, match=r"has no engine for 'model.onnx'"):
        open_session(folder / "model.onnx", "tensorrt")


def test_a_stamp_of_another_engine(engine_bundle: Engines) -> None:
    folder = engine_bundle("text-classification")
    path = folder / "engines" / "model.json"
    stamp = json.loads(path.read_text())
    stamp["profiles"].pop()
    path.write_text(json.dumps(stamp))
    with pytest.raises(EngineError, match=r"and 3 profiles, but its stamp says .* and 2. Build it again"):
        pipeline("text-classification", folder, "tensorrt")


def test_a_plan_that_cannot_be_loaded(engine_bundle: Engines, tensorrt: FakeTensorRT, cuda: FakeRuntime) -> None:
    folder = engine_bundle("text-classification")
    tensorrt.failure = "Serialization assertion failed"
    with pytest.raises(EngineError, match=r"'model.plan' cannot be loaded: Serialization assertion failed"):
        pipeline("text-classification", folder, "tensorrt")
    tensorrt.failure = "Out of memory: 1 GiB"
    with pytest.raises(MemoryError, match=r"Out of memory: 1 GiB End other programs"):
        pipeline("text-classification", folder, "tensorrt")
    assert cuda.streams == 0


def test_missing_packages(engine_bundle: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = engine_bundle("text-classification")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"needs TensorRT 10.9.0, which is not installed: pip install tensorrt=="):
        pipeline("text-classification", folder, "tensorrt")
    engine_bundle("text-classification", lean_runtime="excluded")
    with pytest.raises(EngineError, match=r"pip install tensorrt==10.9.0 or pip install tensorrt-lean-cu13==10.9.0"):
        pipeline("text-classification", folder, "tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    engine_bundle("text-classification", flavor="tensorrt-rtx")
    with pytest.raises(MissingExtraError, match=r"needs the package 'tensorrt-rtx'.*xlm-onnx\[tensorrt\]"):
        pipeline("text-classification", folder, "tensorrt")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match=r"needs the package 'cuda-bindings'.*xlm-onnx\[tensorrt\]"):
        pipeline("text-classification", folder, "tensorrt")


def test_a_full_card(engine_bundle: Engines, cuda: FakeRuntime) -> None:
    folder = engine_bundle("text-generation")
    cuda.memory = 20000
    with pytest.raises(MemoryError, match=r"Device 0 \(Fake GPU\) has .* MiB free, and .* more are needed. End other"):
        pipeline("text-generation", folder, "tensorrt")
    gc.collect()
    assert (cuda.blocks, cuda.streams) == ({}, 0)
    cuda.memory = 1 << 30
    pipe = pipeline("text-generation", folder, "tensorrt")
    cuda.memory = cuda.used + 1000
    with pytest.raises(EngineError, match="more are needed"):
        pipe("The old")
    cuda.memory = 1 << 30
    assert pipe("The old")["generated_text"], "the session is whole after that"


def test_a_failing_device(engine_bundle: Engines, cuda: FakeRuntime) -> None:
    pipe = pipeline("text-classification", engine_bundle("text-classification"), "tensorrt")
    cuda.failing["cudaStreamSynchronize"] = cudaError_t.cudaErrorIllegalAddress
    message = r"CUDA failed on device 0, in cudaStreamSynchronize: the fake says so \(cudaErrorIllegalAddress\)"
    with pytest.raises(EngineError, match=message):
        pipe("Good!")


def test_a_capture_that_fails(engine_bundle: Engines, cuda: FakeRuntime) -> None:
    pipe = pipeline("text-classification", engine_bundle("text-classification"), "tensorrt")
    cuda.failing["cudaStreamEndCapture"] = cudaError_t.cudaErrorIllegalAddress
    pipe("Good!")
    pipe("Good!")
    with pytest.raises(EngineError, match=r"'model.plan' cannot be captured in a CUDA graph: .* cuda_graphs=False"):
        pipe("Good!")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": -1}, "device is -1"),
        ({"max_graphs": 0}, "max_graphs is 0"),
        ({"profiles": ((1, 0),)}, r"profiles is \(\(1, 0\),\)"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GpuOptions(**options)


def test_options_for_the_cpu_are_refused(bundles: Bundles) -> None:
    with pytest.raises(InputError, match="Options for a GPU were given, but provider 'cpu' computes on the CPU"):
        pipeline("text-classification", bundles("text-classification"), gpu=GpuOptions())
