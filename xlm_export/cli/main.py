"""`xlm-export`: export a checkpoint, verify a bundle, add graphs or engines to it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from xlm_runtime.cli.arguments import Command, find_command, overview, refuse_unknown
from xlm_runtime.errors import MissingExtraError, XLMError
from xlm_runtime.signals import EXIT_TERMINATED, Terminated, terminated_raises

_PROG, _DESCRIPTION = "xlm-export", "XLM checkpoints become ONNX bundles."
# Each module has `add_arguments(parser)`, and `run(options, progress)` that returns the exit status and what to print.
COMMANDS = {
    "export": Command("trace a checkpoint into a bundle and verify it", "xlm_export.cli.export"),
    "verify": Command("compare a bundle with its checkpoint", "xlm_export.cli.verify"),
    "optimize": Command("add a graph to a bundle that is rewritten for one provider", "xlm_export.cli.optimize"),
    "quantize": Command("add a graph in fewer bits to a bundle, measured against fp32", "xlm_export.cli.quantize"),
    "slim": Command("write a bundle with some of another one's graphs and what they need", "xlm_export.cli.slim"),
    "trim": Command("write a checkpoint without the words that texts do not need", "xlm_export.cli.trim"),
    "langs": Command("show which language embedding a checkpoint was trained with", "xlm_export.cli.langs"),
    "default": Command(
        "set which of a bundle's graphs is taken if no precision is asked for", "xlm_export.cli.default"
    ),
    "engine": Command("build a TensorRT engine from a bundle's graph", "xlm_export.cli.engine"),
    "triton": Command("write a bundle into a model repository of Triton Inference Server", "xlm_export.cli.triton"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 on an error, 130 when interrupted, 143 when terminated."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    command = find_command(overview(_PROG, _DESCRIPTION, COMMANDS), words, COMMANDS)
    try:
        parser = _with_extra(command)
    except XLMError as error:
        print(f"xlm-export: error: {error}", file=sys.stderr)
        return 1
    options, rest = parser.parse_known_args(words)
    if rest:
        refuse_unknown(options.parser, rest)
    from xlm_export.cli.progress import Bar

    try:
        with terminated_raises(), Bar() as bar, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            status: int
            status, lines = options.run(options, bar)
    except (XLMError, OSError) as error:  # OSError: disk full, no permission
        print(f"xlm-export: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as signal:
        print("xlm-export: interrupted; the bundle is as it was before", file=sys.stderr)
        return EXIT_TERMINATED if isinstance(signal, Terminated) else 130
    for warning in caught:
        print(f"xlm-export: warning: {warning.message}", file=sys.stderr)
    print("\n".join(lines))
    return int(status)


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line's: of one command, whose module alone is imported, or of all."""
    parser = argparse.ArgumentParser(prog=_PROG, description=_DESCRIPTION)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS if command is None else (command,):
        module = import_module(COMMANDS[name].module)
        added = commands.add_parser(name, description=COMMANDS[name].help)
        added.set_defaults(run=module.run, parser=added)
        module.add_arguments(added)
    return parser


def _with_extra(command: str) -> argparse.ArgumentParser:
    """`build_parser`; what a command's module imports comes with an extra.

    Raises:
        MissingExtraError: it did not.
    """
    try:
        import_module("xlm_export.cli.progress")
        return build_parser(command)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "xlm_export", "xlm_runtime"):
            raise
        raise MissingExtraError(package, "export", f"xlm-export {command}") from error
