"""`xlm-export triton`: a model repository for Triton Inference Server."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from xlm_export.cli.lists import comma_separated
from xlm_export.progress import Progress
from xlm_export.triton.models import BACKENDS
from xlm_export.triton.options import ServingOptions
from xlm_export.triton.repository import write_repository
from xlm_runtime.cli.arguments import whole_number
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.providers import AUTO, PROVIDERS
from xlm_runtime.triton.model import TEXT

_DEFAULTS = ServingOptions()
_TEXTS = {
    "fill-mask": "A <mask> text.",
    "multiple-choice": '{"prompt": "…", "choices": ["…", "…"]}',
    "question-answering": '{"question": "…", "context": "…"}',
}
_PARAMETERS = {"zero-shot-classification": {"candidate_labels": "…, …"}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("repository", type=Path, help="folder of models, which is made where it is not there")
    parser.add_argument(
        "--backend",
        type=comma_separated,
        default=("python",),
        metavar="NAME,…",
        help=f"{', '.join(BACKENDS)}: python answers texts, onnxruntime serves the padded graph, tensorrt the engine "
        "(default: python)",
    )
    parser.add_argument("--name", help="of the model (default: the task); the others' begin with it")
    parser.add_argument(
        "--task", help=f"that the python backend answers: {', '.join(PIPELINES)} (default: the bundle's)"
    )
    for flag, default, text in (
        ("--instances", _DEFAULTS.instances, "of the model, side by side; on a GPU on each"),
        ("--max-batch", _DEFAULTS.max_batch, "most texts, or rows, that Triton puts together"),
        ("--max-queue-delay-us", _DEFAULTS.max_queue_delay_us, "microseconds that a request waits for others"),
    ):
        parser.add_argument(flag, type=whole_number, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument(
        "--provider",
        default=_DEFAULTS.provider,
        help=f"of the python backend, one of {', '.join((*PROVIDERS, AUTO))}; with one on a GPU the graph is served "
        "there, too (default: cpu)",
    )
    parser.add_argument("--precision", help="or recipe of the graph or engine (default: the bundle's first)")
    parser.add_argument(
        "--threads", type=whole_number, help="CPU threads of an instance (default: they share the CPUs)"
    )
    parser.add_argument("--engine", metavar="NAME", help="which engine of the bundle, where it has several")
    parser.add_argument("--force", action="store_true", help="replace models of the same names")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Write the models; returns the exit status and what to print."""
    names = ("task", "instances", "max_batch", "max_queue_delay_us", "provider", "precision", "threads", "engine")
    models = write_repository(
        options.bundle,
        options.repository,
        ServingOptions(**{name: getattr(options, name) for name in names}),
        backends=options.backend,
        name=options.name,
        force=options.force,
    )
    lines = [f"{options.repository / model.name}: {model.note}" for model in models]
    lines.append(f"serve it: {shlex.join(['tritonserver', '--model-repository', str(options.repository)])}")
    lines += [f"ask it: {_asking(model.name, model.task)}" for model in models if model.task]
    return 0, lines


def _asking(name: str, task: str) -> str:
    body = {TEXT: _TEXTS.get(task, "A text."), **_PARAMETERS.get(task, {})}
    words = ["curl", f"localhost:8000/v2/models/{name}/generate", "-d", json.dumps(body, ensure_ascii=False)]
    return shlex.join(words)
