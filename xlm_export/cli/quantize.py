"""`xlm-export quantize`: a further graph in a bundle, in fewer bits."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from xlm_export.cli.next_step import answering_command
from xlm_export.progress import Progress
from xlm_export.quantization import RECIPES, Limits, quantize
from xlm_runtime.cli.arguments import number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    recipes = "; ".join(f"{name}: {recipe.summary}" for name, recipe in RECIPES.items())
    calibrated = ", ".join(name for name, recipe in RECIPES.items() if recipe.ranges)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--recipe", required=True, help=recipes)
    parser.add_argument("--calibration", type=Path, metavar="FILE", help="texts, one a line, or lang<TAB>text; to "
                        "calibrate and compare on (default: eight sentences in seven languages)")  # fmt: skip
    parser.add_argument("--percentile", type=number, metavar="P", help=f"{calibrated}: clip activations to a range "
                        "that holds P percent of their values, such as 99.99 (default: all of them)")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FILE", help="labelled data for the task's metric: JSON lines, or "
                        "a SQuAD file")  # fmt: skip
    parser.add_argument("--max-divergence", type=number, metavar="NATS", help="fail above this mean KL divergence")
    parser.add_argument("--min-agreement", type=number, metavar="SHARE", help="fail below this share of same choices")
    parser.add_argument("--min-metric", type=number, metavar="VALUE", help="fail below this metric on --data")
    parser.add_argument("--keep", action="append", default=[], metavar="PART", help="leave a part in fp32, such as "
                        'head or "layer 3 ffn"; may be repeated')  # fmt: skip
    parser.add_argument("--no-embeddings", action="store_true", help="leave the embeddings in fp32")
    parser.add_argument("--per-layer", action="store_true", help="measure each part of the model alone")
    parser.add_argument("--force", action="store_true", help="replace such a graph that is already there")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Quantise; returns the exit status and what to print."""
    made = quantize(
        options.bundle,
        options.recipe,
        calibration=options.calibration,
        data=options.data,
        limits=Limits(options.max_divergence, options.min_agreement, options.min_metric),
        percentile=options.percentile,
        embeddings=not options.no_embeddings,
        keep=options.keep,
        per_layer=options.per_layer,
        force=options.force,
        progress=progress,
    )
    size = sum((options.bundle / name).stat().st_size for name in made.bundle.files_of(made.graph)) / 1e6
    return 0, [
        f"{options.bundle}: {made.graph.file}, {size:.1f} MB",
        *report_lines(made.report),
        answering_command(made.bundle, made.graph, made.report["provider"]),
    ]


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report of a quantised graph for a terminal."""
    agreed = "" if report["same_choice"] is None else f"same choice in {report['same_choice']:.1%} of the cases, "
    texts = "the sentences of verification" if report["texts"] == "own" else report["texts"]
    lines = [f"quality against fp32, on {texts}: {agreed}divergence {report['divergence']:.2g}"]
    if "metric" in report:
        metric = report["metric"]
        lines.append(f"{metric['name']} on {metric['data']}: {metric['quantized']:.4g}, fp32 {metric['fp32']:.4g}")
    if "percentile" in report:
        lines.append(f"ranges of activations hold {report['percentile']:g}% of their values")
    if report["in_fp32"]:
        lines.append(f"in fp32: {', '.join(report['in_fp32'])}")
    for part, divergence in sorted(report["alone"].items(), key=lambda item: -item[1]):
        lines.append(f"  {part:<24}{divergence:>10.2g} alone")
    times = dict(report["milliseconds"])
    threads = times.pop("threads")
    measured = ", ".join(f"{name} {value:.1f} ms" for name, value in times.items())
    lines.append(f"median of 5 passes over the first batch, {threads} threads, {report['provider']}: {measured}")
    return lines
