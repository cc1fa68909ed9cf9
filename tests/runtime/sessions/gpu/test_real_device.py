"""On a machine with a GPU: the same answers as on the CPU, from the real libraries."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles, Exported, HalfBundles
from tests.runtime.sessions.gpu.test_tensorrt_session import CALLS, GENERATIONS, assert_same
from tests.tolerances import RUNTIME_FP32, RUNTIME_HALF
from xlm_runtime import GenerationOptions, GpuOptions, MissingExtraError, XLMError, pipeline
from xlm_runtime.generation.decoder import CachedDecoder, Prompt
from xlm_runtime.generation.static_decoder import StaticDecoder
from xlm_runtime.model.opening import open_model
from xlm_runtime.sessions.gpu.cuda_device import CudaDevice
from xlm_runtime.sessions.gpu.memory import Copy2D

pytestmark = pytest.mark.gpu

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def device() -> Any:
    """The first device; the tests skip where there is none, with the reason that a user would read."""
    try:
        opened = CudaDevice(0, "this test", "gpu")
    except (XLMError, MissingExtraError) as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


def test_memory_copies_and_capture(device: CudaDevice) -> None:
    host, back = device.host_buffer(64), device.host_buffer(64)
    one, other = device.allocate(64), device.allocate(64)
    device.zero(other, 64)
    copy = Copy2D(target=other + 4, target_pitch=16, source=one, source_pitch=8, width=2, height=4)

    def enqueue() -> None:
        device.copy_in(one, host)
        device.copy(copy)

    graph = device.capture(enqueue)
    for start in (0, 100):
        host[:] = np.arange(start, start + 64)
        device.replay(graph)
        device.copy_out(back, other)
        device.synchronize()
        expected = np.zeros((4, 16), np.uint8)
        expected[:, 4:6] = host.reshape(8, 8)[:4, :2]
        np.testing.assert_array_equal(back.reshape(4, 16), expected)
    device.release(graph)
    event = device.event()
    device.copy_in(one, host)
    device.copy_out(back, one)
    device.record(event)
    device.wait(event)
    np.testing.assert_array_equal(back, host)
    with pytest.raises(MemoryError, match="more are needed"):
        device.allocate(1 << 50)
    device.free(one)
    device.free(other)


def needs_cuda_provider() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDAExecutionProvider; it takes the `gpu` extra")


@pytest.mark.parametrize("task", list(CALLS))
def test_the_cuda_provider_answers_as_the_cpu(device: CudaDevice, bundles: Bundles, task: str) -> None:
    needs_cuda_provider()
    expected = CALLS[task](pipeline(task, bundles(task)))
    assert_same(CALLS[task](pipeline(task, bundles(task), "cuda")), expected)


@pytest.mark.parametrize("options", GENERATIONS.values(), ids=GENERATIONS)
def test_the_cuda_provider_generates_as_the_cpu(
    device: CudaDevice, bundles: Bundles, options: GenerationOptions
) -> None:
    needs_cuda_provider()
    texts = ["The old", "In winter only two ships go to the", "ship"]
    folder = bundles("text-generation")
    assert_same(
        pipeline("text-generation", folder, "cuda")(texts, options), pipeline("text-generation", folder)(texts, options)
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_a_static_cache_answers_as_the_cpu(
    device: CudaDevice,
    bundles: Bundles,
    half_bundles: HalfBundles,
    tmp_path: Path,
    precision: str,
    cuda_graphs: bool,
) -> None:
    """The tokens that the device takes by itself are the best by its own logits, which are near those in fp32; of two
    tokens with one score either may come."""
    needs_cuda_provider()
    optimization = pytest.importorskip("xlm_export.optimization", reason="it takes the `export` extra")
    folder = Path(shutil.copytree(half_bundles("text-generation", precision), tmp_path / "bundle"))
    optimization.optimize(folder, "onnxruntime-cuda")
    static = open_model(folder, "text-generation", provider="cuda", gpu=GpuOptions(cuda_graphs=cuda_graphs))
    other = open_model(bundles("text-generation"), "text-generation")
    assert static.has_static_cache
    limit = {"fp16": 2e-2, "bf16": 1e-1}
    rng = np.random.default_rng(0)
    for lengths in ((5, 1, 9), (7,), (3, 20, 8, 1, 2)):
        prompts = [Prompt(rng.integers(0, static.config.vocab_size, length).tolist(), 1) for length in lengths]
        room, rows = max(lengths) + 12, range(len(lengths))
        for _ in range(4):  # plain, prepared, captured, replayed
            taken = list(StaticDecoder(static, room).greedy(prompts, 12))
            decoders = StaticDecoder(static, room), CachedDecoder(other, room)
            scores = [decoder.start(prompts) for decoder in decoders]
            for i, tokens in enumerate(taken):
                ours, theirs = scores
                np.testing.assert_allclose(ours, theirs, atol=limit[precision] * np.abs(theirs).max())
                assert (ours[rows, tokens] == ours.max(axis=1)).all()
                if i + 1 < len(taken):
                    scores = [decoder.step(rows, tokens) for decoder in decoders]


def test_beams_of_a_static_cache(device: CudaDevice, half_bundles: HalfBundles, tmp_path: Path) -> None:
    """Rows that change their places on the device score as the same rows that are begun anew."""
    needs_cuda_provider()
    optimization = pytest.importorskip("xlm_export.optimization", reason="it takes the `export` extra")
    folder = Path(shutil.copytree(half_bundles("text-generation", "fp16"), tmp_path / "bundle"))
    optimization.optimize(folder, "onnxruntime-cuda")
    model = open_model(folder, "text-generation", provider="cuda")
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, model.config.vocab_size, length).tolist() for length in (4, 7)]
    decoder = StaticDecoder(model, 30)
    decoder.start([Prompt(ids, 1) for ids in rows])
    for _ in range(10):
        parents = rng.integers(0, len(rows), 4).tolist()
        tokens = rng.integers(0, model.config.vocab_size, 4).tolist()
        rows = [[*rows[parent], token] for parent, token in zip(parents, tokens, strict=True)]
        anew = StaticDecoder(model, 30).start([Prompt(ids, 1) for ids in rows])
        np.testing.assert_allclose(decoder.step(parents, tokens), anew, atol=2e-2 * np.abs(anew).max())


@pytest.fixture(scope="module")
def packed_for_cuda(device: CudaDevice, bundles: Bundles, exported: Exported, tmp_path_factory: Any) -> Any:
    """A function from a bundle's name and precision to such a packed bundle with a graph for CUDA."""
    needs_cuda_provider()
    cli = pytest.importorskip("xlm_export.cli.main", reason="rewriting graphs takes the `export` extra")
    folder: Path = tmp_path_factory.mktemp("packed")

    def make(name: str, precision: str) -> Path:
        copy = folder / f"{name}-{precision}"
        if not copy.exists():
            bundles(name)
            checkpoint = bundles(name).parent / "checkpoints" / name
            shutil.copytree(exported(checkpoint, layout="packed", precision=precision), copy)
            assert cli.main(["optimize", str(copy), "--target", "onnxruntime-cuda"]) == 0
        return copy

    return make


@pytest.mark.parametrize(("task", "precision"), [*((task, "fp16") for task in CALLS), ("text-classification", "fp32")])
def test_packed_batches_for_cuda_answer_as_the_cpu(
    packed_for_cuda: Any, bundles: Bundles, task: str, precision: str
) -> None:
    """Filled up and captured, which is the default; and plain."""
    reference = pipeline(task, bundles(task)).model
    for options in (GpuOptions(), GpuOptions(cuda_graphs=False)):
        model = pipeline(task, packed_for_cuda(task, precision), "cuda", gpu=options).model
        assert model.graph.target == "onnxruntime-cuda"
        rng = np.random.default_rng(0)
        for lengths in ([16], [5], [40, 3, 11], [9] * 7, [1, 50, 2]):
            for _ in range(4):  # as it is, made ready, captured, replayed: each time with other ids
                rows = [Row(rng.integers(14, reference.config.vocab_size, n).tolist()) for n in lengths]
                further = further_inputs(task, lengths, rng)
                assert_near(model.run(rows, further), reference.run(rows, further), lengths, precision)


def assert_near(found: Arrays, expected: Arrays, lengths: list[int], precision: str) -> None:
    """The same numbers at real tokens; of a beam the starts' probabilities, since of ties either one may come first."""
    for name, value in expected.items():
        if name.endswith("_index") or name.startswith("end_top"):
            continue
        limit = RUNTIME_HALF["fp16"] * np.abs(value).max() if precision == "fp16" else 20 * RUNTIME_FP32
        of_tokens = value.shape[:2] == (len(lengths), max(lengths))
        for i, length in enumerate(lengths):
            part = np.s_[i, :length] if of_tokens else np.s_[i]
            np.testing.assert_allclose(found[name][part], value[part], rtol=0, atol=limit, err_msg=f"{name}, {lengths}")


@dataclass(frozen=True)
class Row:
    input_ids: list[int]
    lang_id: int = 0
    second: int | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def further_inputs(task: str, lengths: list[int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the task's pipeline adds to the tokens."""
    shape = len(lengths), max(lengths)
    if task == "fill-mask":
        return {"logit_positions": np.array([i * shape[1] + rng.integers(n) for i, n in enumerate(lengths)])}
    if task == "question-answering":
        return {"p_mask": np.zeros(shape, np.float32), "cls_index": np.zeros(len(lengths), np.int64)}
    return {}


@pytest.fixture(scope="module", params=["tensorrt", "tensorrt-rtx"])
def engine_of(request: pytest.FixtureRequest, device: CudaDevice, bundles: Bundles, tmp_path_factory: Any) -> Any:
    """A function from a bundle's name to a copy with an engine that was built for this machine."""
    flavor: str = request.param
    pytest.importorskip(flavor.replace("-", "_"), reason=f"{flavor} is not installed")
    cli = pytest.importorskip("xlm_export.cli.main", reason="building engines takes the `export` extra")
    folder: Path = tmp_path_factory.mktemp(flavor)

    def build(name: str) -> Path:
        copy = folder / name
        if not copy.exists():
            shutil.copytree(bundles(name), copy)
            target = [] if flavor == "tensorrt" else ["--gpu-arch", device.architecture]
            arguments = ["engine", str(copy), "--flavor", flavor, "--profiles", "latency", *target]
            if cli.main(arguments) != 0:
                pytest.skip(f"{flavor} builds no engine for {device.architecture}")
        return copy

    return build


@pytest.mark.slow
@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("task", ["text-classification", "fill-mask", "token-classification"])
def test_an_engine_answers_as_the_cpu(engine_of: Any, bundles: Bundles, task: str, cuda_graphs: bool) -> None:
    expected = CALLS[task](pipeline(task, bundles(task)))
    pipe = pipeline(task, engine_of(task), "tensorrt", gpu=GpuOptions(cuda_graphs=cuda_graphs))
    for _ in range(4):
        assert_same(CALLS[task](pipe), expected)


@pytest.mark.slow
@pytest.mark.parametrize("cuda_graphs", [True, False])
@pytest.mark.parametrize("options", GENERATIONS.values(), ids=GENERATIONS)
def test_an_engine_generates_as_the_cpu(
    engine_of: Any, bundles: Bundles, options: GenerationOptions, cuda_graphs: bool
) -> None:
    texts = ["The old", "In winter only two ships go to the", "ship"]
    expected = pipeline("text-generation", bundles("text-generation"))(texts, options)
    pipe = pipeline(
        "text-generation", engine_of("text-generation"), "tensorrt", gpu=GpuOptions(cuda_graphs=cuda_graphs)
    )
    for _ in range(3):
        assert_same(pipe(texts, options), expected)
