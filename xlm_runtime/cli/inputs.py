"""What is answered: the texts of the command line, or the lines of standard input, JSON objects among them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import Item, from_values, not_utf8, read_object


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
