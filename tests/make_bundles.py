"""One tiny bundle for each task: `python -m tests.make_bundles FOLDER`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.make_checkpoint import make_checkpoint
from xlm_export.export import export

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


def make_bundle(folder: Path, name: str) -> Path:
    """Write `folder/name`, and the checkpoint it is exported from as `folder/checkpoints/name`."""
    plain = name.removesuffix("-packed")
    architecture, options = BUNDLES[plain]
    checkpoint = make_checkpoint(folder / "checkpoints" / plain, architecture, list(BUNDLES).index(plain), **options)
    task = "text-generation" if plain.startswith("text-generation") else None
    export(checkpoint, folder / name, task=task, layout="padded" if name == plain else "packed")
    return folder / name


def make_bundles(folder: Path) -> None:
    """Write a bundle for every name in `BUNDLES` and `PACKED`."""
    for name in (*BUNDLES, *(f"{name}-packed" for name in PACKED)):
        make_bundle(folder, name)


if __name__ == "__main__":
    make_bundles(Path(sys.argv[1]))
