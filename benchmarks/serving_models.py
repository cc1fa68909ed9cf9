"""The models that the load test serves: the demo's small ones, and one of an official size with seeded weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.prepare import Size, code_folder, prepare_bundle, prepare_checkpoint
from benchmarks.process import ROOT
from benchmarks.texts import TextSampler
from benchmarks.trained import copy_checkpoint
from xlm_runtime.tokenization import XLMTokenizer

TASK = "text-classification"
RECIPE = "int8-static"
LENGTHS = (6, 40)  # tokens of a text, special ones included
TEXTS = 512
QUICK = Size(layers=2, dim=256, vocab=2000)


@dataclass(frozen=True)
class Served:
    """A model and how it is served.

    Args:
        demo: the folder in examples/checkpoints; None for the one of an official size.
        provider: the engine; both are fastest with packed int8-static graphs of their model's size.
        gain: how many times the requests a second of one call each the batcher has to give with 32 clients.
    """

    name: str
    demo: str | None
    provider: str
    gain: float


@dataclass(frozen=True)
class Model:
    """A model that was made."""

    served: Served
    checkpoint: Path
    bundle: Path


MODELS = (
    Served("language-id", "language-id", "cpu", 2.0),
    Served("nli", "nli", "cpu", 2.0),
    Served("12x1024", None, "openvino", 1.35),
)


def make_model(served: Served, work: Path, quick: bool, progress: Callable[[str], None]) -> Model:
    """The checkpoint and its packed int8 bundle in `work`; what is there is kept.

    Raises:
        PreparationError: one of them could not be made.
    """
    if served.demo is None:
        size = QUICK if quick else Size()
        folder = work / size.folder
        progress(f"the checkpoint of {served.name}")
        checkpoint = prepare_checkpoint(folder, TASK, size)
    else:
        folder = work / f"demo-{served.demo}"
        checkpoint = folder / f"checkpoint-{TASK}"
        if not checkpoint.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            copy_checkpoint(ROOT / "examples" / "checkpoints" / served.demo, checkpoint)
    progress(f"the bundle of {served.name}")
    target = code_folder(folder) / f"served-{served.name}"
    layout = ("--layout", "packed")
    bundle = prepare_bundle(target, checkpoint, TASK, layout, [("quantize", "--recipe", RECIPE)])
    return Model(served, checkpoint, bundle)


def draw_texts(bundle: Path, count: int = TEXTS) -> Sequence[str]:
    """Texts of 6 to 40 tokens, each length as often as every other."""
    rng = np.random.default_rng(0)
    sampler = TextSampler(XLMTokenizer.from_pretrained(bundle), rng)
    return [sampler.draw(int(length), rng) for length in rng.integers(LENGTHS[0], LENGTHS[1] + 1, count)]
