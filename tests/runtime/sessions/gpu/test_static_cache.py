"""Generation with a static cache on a GPU of fakes: the tokens of the portable graph, whoever takes them."""

from __future__ import annotations

import pytest

from tests.conftest import Bundles
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from tests.runtime.sessions.gpu.fake_onnxruntime import FakeOnnxRuntime
from tests.runtime.sessions.gpu.test_tensorrt_session import GENERATIONS, assert_same
from tests.sharing import STATIC
from xlm_runtime import EngineError, GenerationOptions, GpuOptions, InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.model.opening import open_model
from xlm_runtime.pipelines.text_generation import TextGenerationPipeline as Pipe

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


@pytest.fixture
def pipes(bundles: Bundles, onnxruntime_gpu: FakeOnnxRuntime, cuda: FakeRuntime) -> tuple[Pipe, Pipe]:
    """The portable graph on the CPU, and the one with a static cache on a GPU that is late."""
    cuda.late = True
    return pipeline("text-generation", bundles("text-generation")), pipeline("text-generation", bundles(STATIC), "cuda")


OTHERS = {
    "penalties": GenerationOptions(max_new_tokens=12, repetition_penalty=1.3, no_repeat_ngram_size=2),
    "ends": GenerationOptions(max_new_tokens=20, eos_token_id=tuple(range(5, 60))),
    "one": GenerationOptions(max_new_tokens=1),
    "scores": GenerationOptions(max_new_tokens=6, return_scores=True),
    "beams": GenerationOptions(max_new_tokens=8, num_beams=3),
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_options(pipes: tuple[Pipe, Pipe], options: GenerationOptions) -> None:
    portable, static = pipes
    for texts, langs in ((TEXTS, ["en", "de", "fr"]), (["Anna"] * 5 + TEXTS, "en"), (["ship"], None)):
        assert_same(static(texts, options, lang=langs), portable(texts, options, lang=langs))


def test_streams(pipes: tuple[Pipe, Pipe]) -> None:
    portable, static = pipes
    options = GenerationOptions(max_new_tokens=24, ignore_eos=True)
    whole = portable(TEXTS[1], options, lang="en")["generated_text"]
    word = whole.split()[3]
    for changed in (options, options.replace(stop=(word,)), options.replace(do_sample=True, seed=1)):
        pieces, expected = (list(pipe.stream(TEXTS[1], changed, lang="en")) for pipe in (static, portable))
        assert pieces == expected
        assert pieces
    stream = static.stream(TEXTS[1], options, lang="en")
    first = next(stream)
    assert static(TEXTS[0], options)["ids"] == portable(TEXTS[0], options)["ids"], "beside a stream that waits"
    stream.close()
    assert whole.startswith(first)
    assert static(TEXTS[1], options, lang="en")["generated_text"] == whole


def test_scores_of_texts(pipes: tuple[Pipe, Pipe], monkeypatch: pytest.MonkeyPatch) -> None:
    portable, static = pipes
    texts = [*TEXTS, "The film was very good, but the book was better than the film."] * 2
    expected = portable.score(texts, lang="en")
    assert_same(static.score(texts, lang="en"), expected)
    monkeypatch.setattr("xlm_runtime.generation.scoring.MOST_LOGITS", 5)
    assert_same(static.score(texts, lang="en"), expected)


def test_prompts_that_fill_the_positions(pipes: tuple[Pipe, Pipe]) -> None:
    portable, static = pipes
    most = portable.model.config.max_position_embeddings
    options = GenerationOptions(max_new_tokens=most - 1, ignore_eos=True)
    assert_same(static("", options), portable("", options))
    with pytest.raises(InputError, match="positions"):
        static("", GenerationOptions(max_new_tokens=most))


def test_other_providers_take_the_portable_graph(bundles: Bundles) -> None:
    folder = bundles(STATIC)
    assert not pipeline("text-generation", folder, "cpu").model.has_static_cache
    file = Bundle.load(folder).graphs[1].file
    pipe = Pipe(open_model(folder, "text-generation", graph=file))
    with pytest.raises(EngineError, match="writes keys and values in place on a GPU, which provider='cpu' does not"):
        pipe(TEXTS)
