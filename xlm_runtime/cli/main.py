"""`xlm-runtime`: the commands, and what becomes of their errors."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from xlm_runtime.cli.arguments import LITERAL, find_command, mark_literals, overview, refuse_unknown, unmark_literals
from xlm_runtime.cli.commands import COMMANDS
from xlm_runtime.errors import XLMError
from xlm_runtime.signals import EXIT_TERMINATED, Terminated, terminated_raises

EXIT_ERROR = 1

_PROG, _DESCRIPTION = "xlm-runtime", "Answer texts with a bundle from `xlm-export`."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors take one line on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # answers are in every language, whatever the locale
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    elif sys.stdout is None:
        print("xlm-runtime: error: Standard output is closed; there is nowhere to print answers.", file=sys.stderr)
        return EXIT_ERROR
    words = mark_literals(sys.argv[1:] if arguments is None else arguments)
    command = find_command(overview(_PROG, _DESCRIPTION, COMMANDS), words, COMMANDS)
    args, rest = build_parser(command).parse_known_args(words)
    # argparse of Python < 3.13 takes no texts behind an option once it has found none before it
    if rest and (not hasattr(args, "texts") or any(word.startswith("-") and word != "-" for word in rest)):
        refuse_unknown(args.parser, [word.replace(LITERAL, "") for word in rest])
    if rest:
        args.texts += rest
    unmark_literals(args)
    try:
        with terminated_raises():
            code: int = args.run(args)
            sys.stdout.flush()
            return code
    except XLMError as error:
        _flush_quietly()
        print(f"xlm-runtime: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except Terminated:
        _flush_quietly()
        return EXIT_TERMINATED
    except BrokenPipeError:
        # whoever read the answers has had enough; the interpreter's own flush at exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file of the bundle that may not be read
        print(f"xlm-runtime: error: {error}", file=sys.stderr)
        return EXIT_ERROR


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line's: of one command, whose module alone is imported, or of all."""
    parser = argparse.ArgumentParser(prog=_PROG, description=_DESCRIPTION)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    rows = COMMANDS.values() if command is None else [COMMANDS[command]]
    for module in dict.fromkeys(row.module for row in rows):
        import_module(module).add_parsers(commands.add_parser)
    return parser


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
