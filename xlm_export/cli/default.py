"""`xlm-export default`: which graph of a bundle is taken where no precision is asked for."""

from __future__ import annotations

import argparse
from pathlib import Path

from xlm_export.bundle_writer import set_default
from xlm_export.progress import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("graph", help="file of a graph, or its precision or recipe, as xlm-runtime info lists them")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Set it; returns the exit status and what to print."""
    first = set_default(options.bundle, options.graph)
    return 0, [f"{options.bundle}: without a precision pipelines take {first.quality} now ({first.file})"]
