"""`xlm-export`: export a checkpoint, verify a bundle, add graphs or engines to it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from xlm_export.cli import default, engine, export, langs, optimize, quantize, verify
from xlm_export.cli.progress import Bar
from xlm_export.progress import Progress
from xlm_runtime.errors import XLMError
from xlm_runtime.signals import EXIT_TERMINATED, Terminated, terminated_raises


@dataclass(frozen=True)
class Command:
    """A command: its line of help, what adds its arguments, and what runs it.

    `run` takes the parsed arguments and whom to tell of the steps; it returns the exit status and the lines to print.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Progress], tuple[int, list[str]]]


COMMANDS = {
    "export": Command("trace a checkpoint into a bundle and verify it", export.add_arguments, export.run),
    "verify": Command("compare a bundle with its checkpoint", verify.add_arguments, verify.run),
    "optimize": Command("add a graph to a bundle that is rewritten for one provider", optimize.add_arguments,
                        optimize.run),
    "quantize": Command("add a graph in fewer bits to a bundle, measured against fp32", quantize.add_arguments,
                        quantize.run),
    "langs": Command("show which language embedding a checkpoint was trained with", langs.add_arguments, langs.run),
    "default": Command("set which graph of a bundle is taken where no precision is asked for", default.add_arguments,
                       default.run),
    "engine": Command("build a TensorRT engine from a bundle's graph", engine.add_arguments, engine.run),
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 on an error, 130 when interrupted, 143 when terminated."""
    options = build_parser().parse_args(arguments)
    try:
        with terminated_raises(), Bar() as bar, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            status, lines = COMMANDS[options.command].run(options, bar)
    except (XLMError, OSError) as error:  # OSError: disk full, no permission
        print(f"xlm-export: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as signal:
        print("xlm-export: interrupted; the bundle is as it was before", file=sys.stderr)
        return EXIT_TERMINATED if isinstance(signal, Terminated) else 130
    for warning in caught:
        print(f"xlm-export: warning: {warning.message}", file=sys.stderr)
    print("\n".join(lines))
    return status


def build_parser() -> argparse.ArgumentParser:
    """The command line's, of all commands."""
    parser = argparse.ArgumentParser(prog="xlm-export", description="XLM checkpoints become ONNX bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, help=command.help))
    return parser
