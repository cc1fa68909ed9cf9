"""The learning curve: training losses and held-out accuracies over the steps, as one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def draw_curve(output: Path) -> Path:
    """Read the logs, write `learning_curve.png`; the stages of the encoder follow on each other."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    encoder, causal = (read_log(output / f"{name}.jsonl") for name in ("encoder", "causal"))
    ends = []
    for name in ("refine", "settle"):
        ends.append(encoder[-1]["step"])
        encoder += [line | {"step": ends[-1] + line["step"]} for line in read_log(output / f"{name}.jsonl")]
    figure, (losses, accuracies) = pyplot.subplots(1, 2, figsize=(11, 4))
    for name in ("fill-mask", "qa", "nli", "ner", "language-id", "choice"):
        _plot(losses, encoder, name)
    _plot(losses, causal, "clm")
    for name in ("qa", "qa_no_answer", "nli", "ner", "language-id", "choice", "fill-mask_top5"):
        _plot(accuracies, encoder, f"held_out_{name}")
    losses.set(xlabel="step", ylabel="training loss", yscale="log")
    accuracies.set(xlabel="step", ylabel="accuracy on 128 held-out examples", ylim=(0, 1.02))
    for axes in (losses, accuracies):
        for end in ends:
            axes.axvline(end, color="grey", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    path = output / "learning_curve.png"
    figure.savefig(path, dpi=90)
    return path


def read_log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _plot(axes: Any, lines: list[dict[str, Any]], name: str) -> None:
    points = [(line["step"], line[name]) for line in lines if name in line]
    if points:
        axes.plot(*zip(*points, strict=True), label=name.removeprefix("held_out_"))
