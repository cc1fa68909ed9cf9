"""From a checkpoint to answers: export every task, verify it against torch, then answer with the numpy runtime.

The checkpoints are made here, with seeded weights and a small vocabulary: the answers are arbitrary, but they are the
model's, and equal torch's to the digits that the last column shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.make_checkpoint import make_checkpoint
from xlm_export import export
from xlm_runtime import pipeline

ENGLISH = "Anna Miller lives in London and works for the railway."


# task, model class, input, how to show the answer
ROWS: list[tuple[str, str, Any, Callable[[Any], str]]] = [
    ("feature-extraction", "XLMModel", ENGLISH, lambda a: f"{a.shape[0]} tokens × {a.shape[1]} numbers"),
    (
        "fill-mask",
        "XLMWithLMHeadModel",
        "The old <mask> stands at the edge of the town.",
        lambda a: f"{a[0]['token_str']} ({a[0]['score']:.2f})",
    ),
    (
        "text-classification",
        "XLMForSequenceClassification",
        "Le vieux phare est au bord de la ville.",
        lambda a: f"{a['label']} ({a['score']:.2f})",
    ),
    (
        "token-classification",
        "XLMForTokenClassification",
        ENGLISH,
        lambda a: f"{len(a)} tokens, first {a[0]['entity']} at {a[0]['start']}:{a[0]['end']}",
    ),
    (
        "multiple-choice",
        "XLMForMultipleChoice",
        {"prompt": "Two ships go", "choices": ["to the island.", "to the moon."]},
        lambda a: f"{a['choice']} ({a['score']:.2f})",
    ),
]


def milliseconds(call: Callable[[], Any], repeats: int = 20) -> float:
    """Median time of a call, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for task, architecture, text, show in ROWS:
            print(f"export and verify {task} …", flush=True)
            checkpoint = make_checkpoint(Path(folder, "checkpoint", task), architecture)
            bundle = export(checkpoint, Path(folder, task), task=task)
            difference = max(error["max_absolute"] for error in bundle.verification["outputs"].values())
            answer = pipeline(task, model=bundle.folder)
            shown = text if isinstance(text, str) else text["prompt"]
            ms = milliseconds(lambda: answer(text))  # noqa: B023  # called at once
            lines.append((task, shown[:24] + "…", show(answer(text))[:36], f"{ms:.2f}", f"{difference:.0e}"))
    print(f"\n{'task':<22}{'input':<27}{'answer':<38}{'ms':>6}  {'diff':>6}")
    for line in lines:
        print(f"{line[0]:<22}{line[1]:<27}{line[2]:<38}{line[3]:>6}  {line[4]:>6}")
    print("\ndiff: largest difference between the graph's outputs and torch's, over the verification's batches.")
    print("The weights are seeded, not trained: answers are arbitrary, but torch's.")


if __name__ == "__main__":
    main()
