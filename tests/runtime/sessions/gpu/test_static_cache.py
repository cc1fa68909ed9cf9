"""Generation with a static cache on a GPU of fakes: the tokens of the portable graph, whoever takes them."""

from __future__ import annotations

import pytest

from tests.conftest import Bundles
from tests.make_bundles import STATIC
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.sessions.gpu.test_tensorrt_session import GENERATIONS, assert_same
from xlm_runtime import GenerationOptions, GpuOptions, pipeline

TEXTS = ["The old", "In winter only two ships go to the", "ship"]


@pytest.mark.parametrize("options", GENERATIONS.values(), ids=GENERATIONS)
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_answers_are_the_portable_graphs(
    bundles: Bundles,
    onnxruntime_gpu: FakeOnnxRuntime,
    cuda: FakeRuntime,
    options: GenerationOptions,
    cuda_graphs: bool,
) -> None:
    expected = pipeline("text-generation", bundles("text-generation"))(TEXTS, options)
    pipe = pipeline("text-generation", bundles(STATIC), "cuda", gpu=GpuOptions(cuda_graphs=cuda_graphs))
    assert pipe.model.has_static_cache
    cuda.late = True
    for _ in range(3):
        assert_same(pipe(TEXTS, options), expected)
    memory = len(cuda.blocks)
    assert_same(pipe(TEXTS, options), expected)
    assert len(cuda.blocks) == memory, "a generation like the last one takes no more memory"
