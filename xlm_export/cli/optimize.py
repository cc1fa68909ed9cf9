"""`xlm-export optimize`: a further graph in a bundle, rewritten for one provider."""

from __future__ import annotations

import argparse
from pathlib import Path

from xlm_export.cli.lists import comma_separated
from xlm_export.cli.next_step import answering_command
from xlm_export.optimization import PASSES, TARGETS, optimize
from xlm_export.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", required=True, help=" or ".join(TARGETS))
    parser.add_argument("--precision", help="or recipe of the portable graph to rewrite (default: the bundle's first)")
    parser.add_argument(
        "--passes", type=comma_separated, help=f"comma-separated, instead of the target's: {', '.join(PASSES)}"
    )
    parser.add_argument("--force", action="store_true", help="replace such a graph that is already there")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Optimise; returns the exit status and what to print."""
    made = optimize(
        options.bundle,
        options.target,
        precision=options.precision,
        passes=options.passes,
        force=options.force,
        progress=progress,
    )
    size = (options.bundle / made.graph.file).stat().st_size / 1e6
    shared = f", the rest of its weights in {', '.join(made.graph.weights_in)}" if made.graph.weights_in else ""
    kept = [f"in float32 all the same: normalisation behind {', '.join(made.kept)}"] if made.kept else []
    worst = max(error.relative for error in made.report.outputs.values())
    return 0, [
        f"{options.bundle}: {made.graph.file}, {size:.1f} MB{shared}",
        f"matches: {', '.join(f'{name} {count}' for name, count in made.counts.items())}",
        *kept,
        f"verification {made.report.status}: largest difference to the portable graph {worst:.1e} of its largest value",
        answering_command(made.bundle, made.graph),
    ]
