"""Packed graphs for CUDA behind the public API: filled up, captured and replayed on a GPU of fakes.

Their attention has kernels on CUDA alone; here the same graph with that in standard operators stands in for each.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.sessions.gpu.test_tensorrt_session import CALLS, assert_same
from xlm_runtime import GpuOptions, pipeline

TASKS = ("text-classification", "fill-mask", "question-answering")


@pytest.fixture(scope="module")
def packed_for_cuda(bundles: Bundles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, str]]:
    """Task → a bundle with a packed graph for CUDA, the graph's path, and its stand-in's."""
    from xlm_export.optimization import optimize
    from xlm_export.verification.on_cpu import open_on_cpu

    made = {}
    for task in TASKS:
        folder = shutil.copytree(bundles(f"{task}-packed"), tmp_path_factory.mktemp("packed") / task)
        graph = folder / optimize(folder, "onnxruntime-cuda").graph.file
        open_on_cpu(graph, folder / "stand-in.onnx")
        made[task] = folder, str(graph), str(folder / "stand-in.onnx")
    return made


@pytest.mark.whole
@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_the_cpu(
    bundles: Bundles,
    packed_for_cuda: dict[str, tuple[Path, str, str]],
    onnxruntime_gpu: FakeOnnxRuntime,
    cuda: FakeRuntime,
    task: str,
) -> None:
    expected = CALLS[task](pipeline(task, bundles(task)))
    folder, graph, stand_in = packed_for_cuda[task]
    onnxruntime_gpu.stand_ins[graph] = stand_in
    for options, launches in ((None, 2), (GpuOptions(cuda_graphs=False), 0)):
        pipe = pipeline(task, folder, "cuda", gpu=options)
        cuda.calls.clear()
        for _ in range(4):
            assert_same(CALLS[task](pipe), expected)
        assert cuda.calls.count("cudaGraphLaunch") == launches * (cuda.calls.count("cudaStreamSynchronize") // 4)
