"""`xlm-export verify`: a bundle against its checkpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from xlm_export.exporting import verify
from xlm_export.progress import Progress
from xlm_runtime.bundle.atomic import write_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", required=True, help="what the bundle was exported from")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Verify; returns the exit status, 1 for a graph that fails, and what to print."""
    report = verify(options.bundle, options.checkpoint, progress)
    if options.json:
        write_json(options.json, report.to_dict())
    return 1 if report.failures else 0, [report.table()]
