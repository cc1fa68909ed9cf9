"""ONNX Runtime's providers on a GPU of fakes: what they are asked for, and that answers are the CPU's."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.sessions.gpu.test_tensorrt_session import CALLS, GENERATIONS, assert_same, batch
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import BundleError, EngineError, GenerationOptions, GpuOptions, InputError, MissingExtraError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.providers import PROVIDERS
from xlm_runtime.sessions import open_session
from xlm_runtime.tasks import ROW_INPUTS

TASK = "text-classification"
SMALL = GpuOptions(profiles=((2, 16), (6, 512)))


def options_of(provider: str, **changes: Any) -> GpuOptions:
    return GpuOptions(**({"profiles": SMALL.profiles} if provider == "tensorrt-ep" else {}) | changes)


@pytest.mark.parametrize("task", list(CALLS))
@pytest.mark.parametrize("provider", ["cuda", "tensorrt-ep"])
def test_answers_are_those_of_the_cpu(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, provider: str, task: str
) -> None:
    expected = CALLS[task](pipeline(task, bundles(task)))
    pipe = pipeline(task, bundles(task), provider, gpu=options_of(provider))
    assert_same(CALLS[task](pipe), expected)
    assert onnxruntime_gpu.runs
    assert onnxruntime_gpu.fallback_disabled


@pytest.mark.parametrize("options", GENERATIONS.values(), ids=GENERATIONS)
@pytest.mark.parametrize(("provider", "cuda_graphs"), [("cuda", False), ("cuda", True), ("tensorrt-ep", False)])
def test_generation_with_the_cache_on_the_device(
    bundles: Bundles,
    onnxruntime_gpu: FakeOnnxRuntime,
    cuda: FakeRuntime,
    provider: str,
    cuda_graphs: bool,
    options: GenerationOptions,
) -> None:
    folder = bundles("text-generation")
    texts = ["The old", "In winter only two ships go to the", "ship"]
    expected = pipeline("text-generation", folder)(texts, options)
    pipe = pipeline("text-generation", folder, provider, gpu=options_of(provider, cuda_graphs=cuda_graphs))
    assert_same(pipe(texts, options), expected)
    assert_same(pipe(texts, options), expected)
    assert "cudaMemcpy2DAsync" in cuda.calls, "new keys and values went into the cache on the device"


def test_the_stream_and_the_device_are_shared(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime
) -> None:
    cuda.count = (cuda.count[0], 3)
    open_session(bundles("fill-mask") / "model.onnx", "cuda", gpu=GpuOptions(device=2))
    (name, options), rest = onnxruntime_gpu.providers
    assert (name, rest) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert (options["device_id"], options["user_compute_stream"]) == ("2", "7")
    assert options["use_tf32"] == "0", "nothing less precise stands in for fp32"
    with pytest.raises(InputError, match=r"device is 3; expected 0 to 2, since 3 CUDA device\(s\) are visible"):
        open_session(bundles("fill-mask") / "model.onnx", "cuda", gpu=GpuOptions(device=3))


def test_shapes_are_exact_without_graphs_and_bucketed_with_them(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime
) -> None:
    graph = bundles("text-classification") / "model.onnx"
    cpu = open_session(graph)
    plain, captured = (open_session(graph, "cuda", gpu=GpuOptions(cuda_graphs=on)) for on in (False, True))
    assert onnxruntime_gpu.providers[0][1]["enable_cuda_graph"] == "1"
    for session, bindings, runs, launches, waits in ((plain, 4, 5, 0, 10), (captured, 2, 3, 3, 5)):
        onnxruntime_gpu.bindings = onnxruntime_gpu.runs = 0
        cuda.calls.clear()
        for length in (12, 13, 14, 16, 13):
            inputs = batch(2, length)
            np.testing.assert_allclose(session.run(inputs)["logits"], cpu.run(inputs)["logits"], atol=RUNTIME_FP32)
        assert onnxruntime_gpu.bindings == bindings, "calls of one shape share a binding"
        assert onnxruntime_gpu.runs == runs, "the third run is recorded, and replayed from then on"
        assert cuda.calls.count("cudaGraphLaunch") == launches
        assert cuda.calls.count("cudaStreamSynchronize") == waits, "ONNX Runtime does not wait in a captured session"


def test_graphs_of_a_buffer_that_moved_are_given_back(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime
) -> None:
    graph = bundles("feature-extraction") / "model.onnx"
    session, cpu = open_session(graph, "cuda", gpu=GpuOptions(cuda_graphs=True)), open_session(graph)
    small, large = batch(1, 8), batch(200, 64)
    for inputs in (small, small, small, large, small, small, small):
        expected = cpu.run(inputs)["last_hidden_state"]
        np.testing.assert_allclose(session.run(inputs)["last_hidden_state"], expected, atol=RUNTIME_FP32)
    counts = [cuda.calls.count(name) for name in ("cudaGraphInstantiate", "cudaGraphExecDestroy", "cudaGraphLaunch")]
    assert counts == [2, 1, 2]


def test_flash_attention_at_every_length(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV"
    monkeypatch.delenv(name, raising=False)
    open_session(bundles("fill-mask") / "model.onnx", "cuda")
    assert (onnxruntime_gpu.flash_from, os.environ.get(name)) == ("0", None), "the process is left as it was"
    monkeypatch.setenv(name, "100")
    open_session(bundles("fill-mask") / "model.onnx", "cuda")
    assert (onnxruntime_gpu.flash_from, os.environ[name]) == ("100", "100"), "what the user says counts"


def test_graphs_are_captured_by_default_where_they_were_made_for_it(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime
) -> None:
    padded, packed = (Bundle.load(bundles(name)).graphs[0] for name in (TASK, f"{TASK}-packed"))
    own = replace(padded, target="onnxruntime-cuda")
    of_rows = replace(packed, target="onnxruntime-cuda", inputs=(*packed.inputs, *ROW_INPUTS))
    causal = replace(packed, target="onnxruntime-cuda")
    cuda, engine, builder = (PROVIDERS[name] for name in ("cuda", "tensorrt", "tensorrt-ep"))
    for provider, graph, expected in (
        (cuda, None, False),
        (cuda, padded, False),
        (cuda, packed, False),
        (cuda, own, True),
        (cuda, of_rows, True),
        (cuda, causal, False),
        (engine, padded, True),
        (builder, padded, False),
    ):
        assert GpuOptions().captures(provider, graph) == expected
        assert GpuOptions(cuda_graphs=True).captures(provider, graph)
        assert not GpuOptions(cuda_graphs=False).captures(provider, graph)
    with pytest.raises(InputError, match=r"'model.onnx' takes packs.* `xlm-export optimize --target onnxruntime-cuda`"):
        pipeline(TASK, bundles(f"{TASK}-packed"), "cuda", gpu=GpuOptions(cuda_graphs=True))


def test_profiles_of_the_tensorrt_provider(bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, tmp_path: Path) -> None:
    folder = bundles("text-generation")
    options = GpuOptions(profiles=((1, 16), (4, 512)))
    session = open_session(folder / "model.onnx", "tensorrt-ep", gpu=options, engine_cache=tmp_path)
    (name, given), (second, _), third = onnxruntime_gpu.providers
    assert (name, second, third) == ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert given["trt_engine_cache_path"] == str(tmp_path)
    assert given["trt_fp16_enable"] == "0"

    def shapes(which: str, tensor: str) -> list[str]:
        listed = [item.rsplit(":", 1) for item in given[f"trt_profile_{which}_shapes"].split(",")]
        return [shape for key, shape in listed if key == tensor]

    # prompts of 1×16 and of 4×64, the model's positions, and one token for 1 and for 4 rows
    assert shapes("min", "input_ids") == ["1x1"] * 4
    assert shapes("max", "input_ids") == ["1x16", "4x64", "1x1", "4x1"]
    assert shapes("opt", "past_key_values.1.value") == ["1x4x0x8", "4x4x0x8", "1x4x32x8", "4x4x32x8"]
    assert shapes("max", "attention_mask") == ["1x80", "4x128", "1x65", "4x65"]
    ids = np.ones((5, 1), np.int64)
    tokens = {"input_ids": ids, "attention_mask": ids, "langs": ids, "position_ids": ids}
    cache = session.create_cache(5, 64)  # type: ignore[attr-defined]
    with pytest.raises(EngineError, match=r"No profile of the engine takes .*batch 5"):
        session.run({**tokens, "logit_positions": np.arange(5), **cache.inputs})
    open_session(folder / "model.onnx", "tensorrt-ep")
    assert onnxruntime_gpu.providers[0][1]["trt_engine_cache_path"] == str(folder / "engines")


def test_what_the_tensorrt_provider_does_not_have(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, tmp_path: Path, changed_bundle: Callable[..., Path]
) -> None:
    with pytest.raises(InputError, match="provider='tensorrt-ep' captures no CUDA graphs"):
        pipeline("fill-mask", bundles("fill-mask"), "tensorrt-ep", gpu=GpuOptions(cuda_graphs=True))
    alone = tmp_path / "alone.onnx"
    alone.write_bytes((bundles("fill-mask") / "model.onnx").read_bytes())
    with pytest.raises(EngineError, match=r"reads the shapes of '.*alone.onnx' from a bundle"):
        open_session(alone, "tensorrt-ep")
    open_session(alone, "cuda")
    graphs = json.loads((bundles("fill-mask") / "bundle.json").read_text())["graphs"]
    folder = changed_bundle("fill-mask", entries={"graphs": [{**graphs[0], "precision": "int8"}]})
    with pytest.raises(EngineError, match="takes graphs in fp32, fp16, bf16, not in int8"):
        pipeline("fill-mask", folder, "tensorrt-ep")


def test_a_graph_written_for_cuda_comes_first(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, changed_bundle: Callable[..., Path]
) -> None:
    graphs = json.loads((bundles("fill-mask") / "bundle.json").read_text())["graphs"]
    fused = {**graphs[0], "precision": "fp16", "engine": "onnxruntime-cuda", "file": "fused.onnx"}
    folder = changed_bundle("fill-mask", entries={"graphs": [*graphs, fused]})
    (folder / "fused.onnx").write_bytes((folder / "model.onnx").read_bytes())
    contents = json.loads((folder / "bundle.json").read_text())
    contents["files"]["fused.onnx"] = contents["files"]["model.onnx"]
    (folder / "bundle.json").write_text(json.dumps(contents))
    assert pipeline("fill-mask", folder, "cuda").model.graph.file == "fused.onnx"
    assert pipeline("fill-mask", folder, "cuda", precision="fp32").model.graph.file == "model.onnx"
    assert pipeline("fill-mask", folder, "tensorrt-ep").model.graph.file == "model.onnx"
    assert pipeline("fill-mask", folder).model.graph.file == "model.onnx"


def test_options_of_the_command_line(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime, capsys: pytest.CaptureFixture[str]
) -> None:
    from xlm_runtime.cli.main import main

    folder = str(bundles("fill-mask"))
    cuda.count = (cuda.count[0], 2)
    assert main(["fill-mask", folder, "The <mask>", "--provider", "cuda", "--device", "1", "--cuda-graphs"]) == 0
    assert onnxruntime_gpu.providers[0][1]["device_id"] == "1"
    assert onnxruntime_gpu.providers[0][1]["enable_cuda_graph"] == "1"
    capsys.readouterr()
    for arguments, message in (
        (["--provider", "cpu", "--no-cuda-graphs"], "provider 'cpu' computes on the CPU; choose one of cuda, tensorrt"),
        (["--provider", "cuda", "--device", "7"], "device is 7; expected 0 to 1"),
        (["--provider", "tensorrt", "--engine", "absent"], "has no engine 'absent'. Build one"),
    ):
        assert main(["fill-mask", folder, "The <mask>", *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("provider", ["cuda", "tensorrt-ep"])
def test_a_provider_that_does_not_start(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime, provider: str
) -> None:
    onnxruntime_gpu.starting = ["CPUExecutionProvider"]
    with pytest.raises(EngineError, match=r"could not start \w+ExecutionProvider and offers CPUExecutionProvider"):
        pipeline("fill-mask", bundles("fill-mask"), provider)
    assert (cuda.blocks, cuda.streams) == ({}, 0)


def test_a_graph_that_cannot_be_captured(bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime) -> None:
    onnxruntime_gpu.uncapturable = (
        "This session cannot use the graph capture feature as requested by the user as all compute graph nodes have "
        "not been partitioned to the CUDAExecutionProvider"
    )
    with pytest.raises(EngineError, match=r"cannot use the graph capture.*with cuda_graphs=False \(--no-cuda-graphs\)"):
        pipeline(TASK, bundles(TASK), "cuda", gpu=GpuOptions(cuda_graphs=True))
    assert (cuda.blocks, cuda.streams) == ({}, 0)
    pipeline(TASK, bundles(TASK), "cuda")


def test_a_full_card(bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime) -> None:
    session = open_session(bundles("text-classification") / "model.onnx", "cuda")
    onnxruntime_gpu.failure = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"
    with pytest.raises(MemoryError, match=r"failed on input_ids \(1, 4\).*requested buffer of size 9 End other"):
        session.run(batch(1, 4))
    onnxruntime_gpu.failure = "Non-zero status code"
    with pytest.raises(EngineError, match="Non-zero status code") as raised:
        session.run(batch(1, 4))
    assert not isinstance(raised.value, MemoryError)


def test_missing_packages_and_graphs(
    bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    graph = bundles("fill-mask") / "model.onnx"
    with pytest.raises(EngineError, match=r"ONNX Runtime cannot load '.*absent.onnx' with provider='cuda'"):
        open_session(tmp_path / "absent.onnx", "cuda")
    damaged = Path(shutil.copytree(graph.parent, tmp_path / "bundle"))
    (damaged / "model.onnx").write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(BundleError, match="has changed since the export"):
        pipeline("fill-mask", damaged, "cuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match=r"provider='cuda' needs the package 'cuda-bindings'.*xlm-onnx\[gpu\]"):
        open_session(graph, "cuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=FakeRuntime()))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for provider in ("cuda", "tensorrt-ep"):
        with pytest.raises(MissingExtraError, match=r"needs the package 'onnxruntime'.*xlm-onnx\[gpu\]"):
            open_session(graph, provider)
