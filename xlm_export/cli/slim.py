"""`xlm-export slim`: a bundle with some of another one's graphs and what they need."""

from __future__ import annotations

import argparse
from pathlib import Path

from xlm_export.cli.lists import comma_separated
from xlm_export.progress import Progress
from xlm_export.slimming import slim
from xlm_runtime.bundle import Bundle


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--keep", type=comma_separated, action="extend", required=True, metavar="NAME,…",
                        help="recipes, precisions or files of graphs, as xlm-runtime info lists them")  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there, with its engines")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Write it; returns the exit status and what to print."""
    before = Bundle.load(options.bundle)
    size = megabytes(before)
    made = slim(options.bundle, options.out, options.keep, force=options.force, progress=progress)
    left = ", ".join(graph.file for graph in made.left_out) or "no graph"
    return 0, [
        f"{options.out}: {', '.join(graph.file for graph in made.bundle.graphs)}; {megabytes(made.bundle):.1f} MB in "
        f"place of {size:.1f}",
        f"left out: {left}",
        f"without a precision pipelines take {made.bundle.graphs[0].quality}",
    ]


def megabytes(bundle: Bundle) -> float:
    """The size of a bundle's files, engines aside, in MB."""
    return sum(bundle.path(name).stat().st_size for name in bundle.files) / 1e6
