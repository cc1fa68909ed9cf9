"""What both command lines do with words: find the command, read numbers, and say what a word that is unknown may mean.

Nothing here imports more than argparse, so that help and typing errors come at once.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

EXIT_USAGE = 2
# stands before words behind `--`, which begin with a hyphen and are no options; no word of a command line can hold it
LITERAL = "\0"
_OPTION = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


class Command(NamedTuple):
    """A row of a table of commands."""

    help: str | None
    """One line for the list of commands; None for a former name, which the list leaves out."""
    module: str
    """What is imported when the command runs."""


class _Version(argparse.Action):
    """`--version`; the package that knows it is slow to import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"{parser.prog} {version('xlm-onnx')}")
        except PackageNotFoundError:
            print(f"{parser.prog} of a folder that is not installed")
        parser.exit()


def overview(prog: str, description: str, commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the words before a command; its help lists the commands."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    listed = parser.add_subparsers(metavar="COMMAND")
    for name, command in commands.items():
        if command.help is not None:
            listed.add_parser(name, help=command.help)
    return parser


def find_command(parser: argparse.ArgumentParser, words: Sequence[str], commands: Iterable[str]) -> str:
    """The command that a command line begins with.

    `--help` and `--version` are answered here. So are lines without a command, which get the list of commands, and
    unknown ones: both end the program with status 2.

    Args:
        parser: the `overview`.
    """
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(EXIT_USAGE)
    if words[0].startswith("-"):
        _, rest = parser.parse_known_args(words[:1])  # ends the program for the options that it knows
        refuse_unknown(parser, rest)
    known = list(commands)
    if words[0] not in known:
        meant = did_you_mean(words[0], known) or f" The commands are {', '.join(known)}."
        parser.error(f"unknown command '{words[0]}'.{meant}")
    return words[0]


def refuse_unknown(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """End the program with status 2, and for each option among words that are unknown say which it may mean."""
    known = _OPTION.findall(parser.format_help())
    meant = [did_you_mean(word.partition("=")[0], known) for word in words if word.startswith("-")]
    parser.error(f"unrecognized arguments: {' '.join(words)}.{''.join(meant)}")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """ " Did you mean 'x'?" for the known word that is most like another one; empty where none is."""
    from difflib import get_close_matches  # slow to import, and few need it

    found = get_close_matches(word, known, 1)
    return f" Did you mean '{found[0]}'?" if found else ""


def whole_number(text: str) -> int:
    """An option's value as an integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, got '{text}'") from None


def whole_number_or_all(text: str) -> int | None:
    """An option's value as an integer, None for "all"."""
    try:
        return None if text == "all" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number or all, got '{text}'") from None


def number(text: str) -> float:
    """An option's value as a number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if value != value:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'")
    return value


def mark_literals(words: Sequence[str]) -> list[str]:
    """The words of a command line, without the first `--` and with marks on what argparse would take for options
    behind it."""
    if "--" not in words:
        return list(words)
    end = list(words).index("--")
    return [
        *words[:end],
        *(LITERAL + word if word.startswith("-") and word != "-" else word for word in words[end + 1 :]),
    ]


def unmark_literals(args: argparse.Namespace) -> None:
    """Take the marks away."""
    for name, value in vars(args).items():
        if isinstance(value, str):
            setattr(args, name, value.removeprefix(LITERAL))
        elif isinstance(value, list):
            setattr(args, name, [each.removeprefix(LITERAL) if isinstance(each, str) else each for each in value])
