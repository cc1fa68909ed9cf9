"""`xlm-runtime`: the commands, and what becomes of their errors."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

from xlm_runtime.cli import autotune, evaluate, info, inputs, tasks
from xlm_runtime.errors import XLMError
from xlm_runtime.signals import EXIT_TERMINATED, Terminated, terminated_raises

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors take one line on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # answers are in every language, whatever the locale
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    elif sys.stdout is None:
        print("xlm-runtime: error: Standard output is closed; there is nowhere to print answers.", file=sys.stderr)
        return EXIT_ERROR
    parser = build_parser()
    args, rest = parser.parse_known_args(inputs.mark_literals(sys.argv[1:] if arguments is None else arguments))
    # argparse of Python < 3.13 takes no texts behind an option once it has found none before it
    if rest and (not hasattr(args, "texts") or any(word.startswith("-") and word != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest).replace(inputs.LITERAL, '')}")
    if rest:
        args.texts += rest
    inputs.unmark_literals(args)
    try:
        with terminated_raises():
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except XLMError as error:
        _flush_quietly()
        print(f"xlm-runtime: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt as signal:
        return EXIT_TERMINATED if isinstance(signal, Terminated) else EXIT_INTERRUPTED
    except BrokenPipeError:
        # whoever read the answers has had enough; the interpreter's own flush at exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file of the bundle that may not be read
        print(f"xlm-runtime: error: {error}", file=sys.stderr)
        return EXIT_ERROR


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xlm-runtime", description="Answer texts with a bundle from `xlm-export`.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    tasks.add_parsers(commands.add_parser)
    for command in (evaluate, autotune, info):
        command.add_parser(commands.add_parser)
    return parser


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
