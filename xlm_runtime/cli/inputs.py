"""What is answered: the texts of the command line, or the lines of standard input, JSON objects among them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import Item, from_values, not_utf8, read_object

# stands before words behind `--`, which begin with a hyphen and are no options; no word of a command line can hold it
LITERAL = "\0"


def from_arguments(texts: Iterable[str]) -> Iterator[Item]:
    """Texts of the command line. What the locale could not read is read as UTF-8, like lines."""
    for text in texts:
        try:
            text = _decoded(text)
            yield Item(text, text)
        except UnicodeDecodeError as error:
            yield Item(not_utf8(error), text)


def from_lines(keys: Sequence[str]) -> Iterator[Item]:
    """The lines of standard input: text, or an object where it begins with a brace.

    Args:
        keys: of the pipeline's inputs.
    """
    for number, raw in enumerate(sys.stdin.buffer):
        try:
            line = raw.decode("utf-8" if number else "utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield Item(not_utf8(error), raw.decode("utf-8", "replace"))
            continue
        yield _read_line(line, keys) if line.lstrip().startswith("{") else Item(line, line)


def _read_line(line: str, keys: Sequence[str]) -> Item:
    try:
        return from_values(read_object(line), keys)
    except InputError as error:
        return Item(error, line)


def _decoded(word: str) -> str:
    """A word of the command line; bytes that the locale has no letters for are UTF-8's.

    Raises:
        UnicodeDecodeError: they are not.
    """
    if word.isascii() or not any("\udc80" <= char <= "\udcff" for char in word):
        return word
    return os.fsencode(word).decode("utf-8")


def text_option(word: str) -> str:
    """The value of an option that is a text, for `add_argument(type=…)`."""
    try:
        return _decoded(word)
    except UnicodeDecodeError as error:
        raise argparse.ArgumentTypeError(not_utf8(error).message) from error


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
