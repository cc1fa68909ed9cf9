"""Pipelines: from texts to answers. One file a task; `pipeline` opens a bundle for one."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from xlm_runtime.errors import InputError
from xlm_runtime.model.opening import EngineCache, open_model
from xlm_runtime.sessions import GpuOptions

if TYPE_CHECKING:
    from xlm_runtime.pipelines.base import Pipeline
    from xlm_runtime.pipelines.feature_extraction import FeatureExtractionPipeline
    from xlm_runtime.pipelines.fill_mask import FillMaskPipeline
    from xlm_runtime.pipelines.multiple_choice import MultipleChoicePipeline
    from xlm_runtime.pipelines.question_answering import QuestionAnsweringPipeline
    from xlm_runtime.pipelines.text_classification import TextClassificationPipeline
    from xlm_runtime.pipelines.text_generation import TextGenerationPipeline
    from xlm_runtime.pipelines.token_classification import TokenClassificationPipeline
    from xlm_runtime.pipelines.zero_shot_classification import ZeroShotClassificationPipeline


class PipelineEntry(NamedTuple):
    """A row of the table.

    `bundle_task` is the task that a bundle is exported for. `name` is the class that answers with it, as
    "module:class", for a task's module is imported when a pipeline is opened for it.
    """

    bundle_task: str
    name: str

    def load(self) -> type[Pipeline[Any, Any, Any, Any]]:
        """The class."""
        module, _, name = self.name.partition(":")
        made: type[Pipeline[Any, Any, Any, Any]] = getattr(import_module(f"{__name__}.{module}"), name)
        return made


PIPELINES = {
    "feature-extraction": PipelineEntry("feature-extraction", "feature_extraction:FeatureExtractionPipeline"),
    "fill-mask": PipelineEntry("fill-mask", "fill_mask:FillMaskPipeline"),
    "text-generation": PipelineEntry("text-generation", "text_generation:TextGenerationPipeline"),
    "text-classification": PipelineEntry("text-classification", "text_classification:TextClassificationPipeline"),
    "zero-shot-classification": PipelineEntry(
        "text-classification", "zero_shot_classification:ZeroShotClassificationPipeline"
    ),
    "multiple-choice": PipelineEntry("multiple-choice", "multiple_choice:MultipleChoicePipeline"),
    "token-classification": PipelineEntry("token-classification", "token_classification:TokenClassificationPipeline"),
    "question-answering": PipelineEntry("question-answering", "question_answering:QuestionAnsweringPipeline"),
}


@overload
def pipeline(
    task: Literal["feature-extraction"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> FeatureExtractionPipeline: ...


@overload
def pipeline(
    task: Literal["fill-mask"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> FillMaskPipeline: ...


@overload
def pipeline(
    task: Literal["text-generation"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> TextGenerationPipeline: ...


@overload
def pipeline(
    task: Literal["text-classification"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> TextClassificationPipeline: ...


@overload
def pipeline(
    task: Literal["zero-shot-classification"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> ZeroShotClassificationPipeline: ...


@overload
def pipeline(
    task: Literal["multiple-choice"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> MultipleChoicePipeline: ...


@overload
def pipeline(
    task: Literal["token-classification"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> TokenClassificationPipeline: ...


@overload
def pipeline(
    task: Literal["question-answering"],
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> QuestionAnsweringPipeline: ...


@overload
def pipeline(
    task: str,
    model: str | Path,
    provider: str | None = ...,
    threads: int | None = ...,
    precision: str | None = ...,
    *,
    max_tokens: int | None = ...,
    gpu: GpuOptions | None = ...,
    engine_cache: EngineCache = ...,
    cache_mb: float | None = ...,
) -> Any: ...


def pipeline(
    task: str,
    model: str | Path,
    provider: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    *,
    max_tokens: int | None = None,
    gpu: GpuOptions | None = None,
    engine_cache: EngineCache = None,
    cache_mb: float | None = None,
) -> Any:
    """Open a bundle for a task and return what answers: `pipeline("fill-mask", "bundle")("A <mask> text.")`.

    Args:
        task: a name out of `PIPELINES`, which are Hugging Face's names.
        model: the bundle's folder.
        provider: "cpu" or "openvino"; on a GPU "cuda" (ONNX Runtime), "tensorrt" (engines from `xlm-export engine`) or
            "tensorrt-ep" (ONNX Runtime's TensorRT provider); "auto" takes the fastest of `xlm-runtime autotune`, or
            goes by what is installed. By default the one that the bundle was made for (`xlm-export export --for`), or
            "cpu". The pipeline's `model.provider` and `model.reason` tell which and why.
        threads: threads of one call on the CPU; by default as many as the CPUs that this process may use.
        precision: which of the bundle's graphs, by its precision, such as "fp32", or the recipe that quantised it, such
            as "int8-static"; by default its first.
        max_tokens: budget of one batch, sequences × longest sequence, or tokens where the bundle's graph is packed; by
            default one that suits the provider.
        gpu: options of the providers on a GPU.
        engine_cache: folder for what is built on this machine, see `open_session`. By default cpu keeps large graphs in
            the user's cache folder, if it can; False for keeping none.
        cache_mb: MiB that the tokenizer may take for pieces of text that it remembers; by default 64.

    Returns:
        The task's pipeline, such as `FillMaskPipeline`: its `__call__` tells the options and what it returns.

    Raises:
        InputError: an unknown task, provider or precision, or a bundle for another task.
        BundleError: missing, changed or newer files, a failed verification.
        MissingExtraError, EngineError: a provider or device that is not there.
    """
    if task not in PIPELINES:
        raise InputError(f"Unknown task '{task}'; expected one of {', '.join(PIPELINES)}.")
    entry = PIPELINES[task]
    opened = open_model(
        model,
        entry.bundle_task,
        provider=provider,
        threads=threads,
        precision=precision,
        max_tokens=max_tokens,
        gpu=gpu,
        engine_cache=engine_cache,
        cache_mb=cache_mb,
    )
    return entry.load()(opened)
