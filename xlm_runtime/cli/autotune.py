"""`xlm-runtime autotune`: times the graphs and providers of a bundle on this machine, for provider "auto"."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

from xlm_runtime.autotune import keep, measure
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.timings import Record, relative_totals
from xlm_runtime.cli.arguments import whole_number
from xlm_runtime.cli.progress import progress_bar

_HELP = (
    "Times each graph of a bundle with each provider that is installed on this machine, and keeps the figures in "
    "bundle.json, where --provider auto reads them."
)


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command, and its former name, with `add_parser` of the commands."""
    parser = add("autotune", description=_HELP)
    parser.set_defaults(run=run, parser=parser)
    add_options(parser)
    former = add("calibrate", description=f"The former name of autotune. {_HELP}")
    former.set_defaults(run=run_by_former_name, parser=former)
    add_options(former)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by `xlm-export export`")
    parser.add_argument("--threads", type=whole_number, help="CPU threads (default: all that the process may use)")
    parser.add_argument("--json", action="store_true", help="print the record as one JSON object")


def run_by_former_name(args: argparse.Namespace) -> int:
    """`run`, with a note."""
    print("xlm-runtime: calibrate is called autotune now.", file=sys.stderr)
    return run(args)


def run(args: argparse.Namespace) -> int:
    """Measure, print the figures and keep them: in this order, so that they are seen even where they cannot be kept."""
    with progress_bar(100, "%") as progress:
        record = measure(args.bundle, args.threads, progress=progress)
    if args.json:
        print(json.dumps(record.to_dict(), ensure_ascii=False, indent=1))
    else:
        print("\n".join(record_lines(Bundle.load(args.bundle), record)))
    keep(args.bundle, record)
    return 0


def record_lines(bundle: Bundle, record: Record) -> list[str]:
    """A table for each precision or recipe, the fastest first, and what was left out."""
    machine = record.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [f"{machine.gpu + ', ' if machine.gpu else ''}{machine.cpu}, {machine.threads} threads; {versions}"]
    for quality in dict.fromkeys(graph.quality for graph in bundle.graphs):
        files = [graph.file for graph in bundle.graphs if graph.quality == quality]
        totals = relative_totals(timing for timing in record.timings if timing.graph in files)
        if not totals:
            continue
        names = list(totals[0][1].milliseconds)
        wide = max(len(timing.graph) for _, timing in totals) + 2
        lines.append(f"{quality:{wide}}  {'provider':<12}" + "".join(f"{f'{name} ms':>13}" for name in names)
                     + f"{'relative':>10}")  # fmt: skip
        for total, timing in totals:
            times = "".join(f"{timing.milliseconds[name]:>13.2f}" for name in names)
            lines.append(f"  {timing.graph:{wide}}{timing.provider:<12}{times}{total:>10.2f}")
    return lines + [f"left out: {item.provider}{f' with {item.graph}' if item.graph else ''}: {item.reason}"
                    for item in record.left_out]  # fmt: skip
