"""Checkpoints, figures, curve and model card into the folder that the demo reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from examples.train_demo.models import BODY, CAUSAL, HEADS

DEFAULT_CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
RECORDS = ("encoder.jsonl", "refine.jsonl", "settle.jsonl", "causal.jsonl", "figures.json", "learning_curve.png")


def publish(output: Path, checkpoints: Path) -> None:
    """Copy what `evaluate` has scored, and write `MODEL_CARD.md` with its figures."""
    for name in (BODY, *HEADS, CAUSAL):
        shutil.copytree(output / name, checkpoints / name, dirs_exist_ok=True)
    for name in RECORDS:
        shutil.copyfile(output / name, checkpoints / name)
    template = (Path(__file__).parent / "model_card.md").read_text(encoding="utf-8")
    figures = json.loads((output / "figures.json").read_text(encoding="utf-8"))
    card = template.replace("{figures}", figure_table(figures))
    for name, value in figures["examples"].items():
        card = card.replace(f"{{{name}}}", f"{value:,}")
    (checkpoints / "MODEL_CARD.md").write_text(card, encoding="utf-8")


def figure_table(figures: dict[str, Any]) -> str:
    """The held-out figures beside what was aimed at."""
    qa, masked, causal = figures["qa"], figures["fill-mask"], figures["clm"]
    rows = [
        ("`language-id`", "accuracy", percent(figures["language-id"]["accuracy"]), "97 %"),
        ("`qa`", "exact match, all questions", percent(qa["exact_match"]), "90 %"),
        ("`qa`", "exact match, answerable questions", percent(qa["exact_match_answerable"]), ""),
        ("`qa`", "answerable and unanswerable told apart", percent(qa["answerability"]), "90 %"),
        ("`qa`", "unanswerable questions refused", percent(qa["unanswerable_refused"]), ""),
        ("`ner`", "F1 of whole entities", percent(figures["ner"]["f1"]), "90 %"),
        ("`nli`", "accuracy, three labels", percent(figures["nli"]["accuracy"]), "85 %"),
        ("`choice`", "accuracy, three choices", percent(figures["choice"]["accuracy"]), ""),
        ("`fill-mask`", "masked token among the five best", percent(masked["top5"]),
         f"far above {percent(masked['unigram_top5'])}, its language's commonest five"),
        ("`clm`", "perplexity a token", f"{causal['perplexity']:.0f}",
         f"far below {causal['unigram_perplexity']:.0f}, its language's unigram"),
    ]  # fmt: skip
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(["| model | held out | measured | aim |", "|---|---|---|---|", *lines])


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"
