"""`xlm-export langs`: which language embedding a checkpoint was trained with, as labelled data show it."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from xlm_export.languages import compare_languages
from xlm_export.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--data", type=Path, required=True, metavar="FILE",
                        help="labelled data: JSON lines, or a SQuAD file, as for quantize")  # fmt: skip
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Measure; returns the exit status and what to print."""
    metric, scores = compare_languages(options.bundle, options.data, provider=options.provider, progress=progress)
    if options.json:
        return 0, [json.dumps({"metric": metric, "langs": [asdict(each) for each in scores]}, indent=2)]
    lines = [f"{'langs':<10}{metric:>12}  to have it so"]
    lines += [f"{each.langs:<10}{each.value:>12.4f}  {each.remedy}" for each in scores]
    return 0, [*lines, f"Best: langs {scores[0].langs}."]
