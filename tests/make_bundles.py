"""One tiny bundle for each task, or some of them: `python -m tests.make_bundles FOLDER [NAME…]`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.make_checkpoint import make_checkpoint
from tests.sharing import STATIC, make_once
from xlm_export.bundle_writer import add_graph, draft_of
from xlm_export.exporting import export
from xlm_export.onnx_graph.file import external_files, open_model, save
from xlm_export.optimization import PASSES
from xlm_export.optimization.passes import apply_passes
from xlm_runtime.bundle import Bundle
from xlm_runtime.tasks import static_cache_specs

# bundle → architecture and configuration of its checkpoint; the place is the weights' seed, so that new ones come last
BUNDLES: dict[str, tuple[str, dict[str, Any]]] = {
    "feature-extraction": ("XLMModel", {}),
    "fill-mask": ("XLMWithLMHeadModel", {}),
    "text-classification": (
        "XLMForSequenceClassification",
        {"id2label": {0: "contradiction", 1: "entailment", 2: "neutral"}},
    ),
    "multiple-choice": ("XLMForMultipleChoice", {}),
    "token-classification": (
        "XLMForTokenClassification",
        {"id2label": {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}},
    ),
    "question-answering": ("XLMForQuestionAnswering", {}),
    "question-answering-simple": ("XLMForQuestionAnsweringSimple", {}),
    "text-generation": ("XLMWithLMHeadModel", {"causal": True}),
    "text-generation-bidirectional": ("XLMWithLMHeadModel", {}),
}
# those that are also there in the packed layout, of the same checkpoint, as `{name}-packed`
PACKED = tuple(name for name in BUNDLES if not name.startswith("text-generation"))
# that of text-generation with a graph with a static cache beside its own, in fp32, which ONNX Runtime's CPU has kernels
# for and its GPU has not: so tests compare tokens exactly
NAMES = (*BUNDLES, *(f"{name}-packed" for name in PACKED), STATIC)


def bundle_checkpoint(folder: Path, name: str) -> Path:
    """The checkpoint `folder/checkpoints/name`, written unless it is there."""
    architecture, options = BUNDLES[name]
    seed = list(BUNDLES).index(name)
    return make_once(folder / "checkpoints" / name, lambda path: make_checkpoint(path, architecture, seed, **options))


def bundle_task(name: str) -> str | None:
    """The task to export for, where the checkpoint's architecture does not decide."""
    return "text-generation" if name.startswith("text-generation") else None


def make_bundle(folder: Path, name: str) -> Path:
    """Write `folder/name`, unless it is there, and the checkpoint that it is exported from."""
    if name == STATIC:
        plain = make_bundle(folder, name.removesuffix("-static"))
        return make_once(folder / name, lambda path: add_static_cache(shutil.copytree(plain, path)))
    plain = name.removesuffix("-packed")
    checkpoint = bundle_checkpoint(folder, plain)
    layout = "padded" if name == plain else "packed"
    return make_once(folder / name, lambda path: export(checkpoint, path, task=bundle_task(plain), layout=layout))


def add_static_cache(folder: Path) -> None:
    """Give a bundle of an fp32 graph with a cache another one, written for onnxruntime-cuda, whose cache is static."""
    bundle = Bundle.load(folder)
    (source,) = bundle.graphs
    model = open_model(folder / source.file)
    passes = {name: PASSES[name] for name in ("qkv", "static-cache")}
    apply_passes(model, passes, bundle.config, half=False, kept={})
    inputs, outputs = static_cache_specs(source.inputs, source.outputs)
    entry = replace(source, target="onnxruntime-cuda", inputs=inputs, outputs=outputs)
    entry = replace(entry, file=entry.file_name, weights_in=external_files(model))
    with draft_of(bundle) as draft:
        save(model, draft)
        add_graph(bundle, draft, source, entry, "optimized", {})


def make_bundles(folder: Path, names: Sequence[str] = NAMES) -> None:
    """Write a bundle for every name."""
    for name in names:
        make_bundle(folder, name)


if __name__ == "__main__":
    make_bundles(Path(sys.argv[1]), sys.argv[2:] or NAMES)
