"""What is answered: the texts of the command line, or the lines of standard input, JSON objects among them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from xlm_runtime.errors import InputError

# stands before words behind `--`, which begin with a hyphen and are no options; no word of a command line can hold it
LITERAL = "\0"
# where an answer stands beside the keys of its line
_ANSWER, _ERROR = "answer", "error"


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        given: what the pipeline is asked, or why it cannot be read.
        shown: what a table has for a title.
        extra: the line's keys that are none of the pipeline's, which come back beside the answer.
    """

    given: Any
    shown: Any
    extra: dict[str, Any] = field(default_factory=dict)

    def with_extra(self, answer: Any) -> Any:
        """The answer as it is printed: with the line's further keys as an object, which has it under "answer"."""
        return {**self.extra, _ANSWER: answer} if self.extra else answer


def from_arguments(texts: Iterable[str]) -> Iterator[Item]:
    """Texts of the command line. What the locale could not read is read as UTF-8, like lines."""
    for text in texts:
        try:
            text = _decoded(text)
            yield Item(text, text)
        except UnicodeDecodeError as error:
            yield Item(_not_utf8(error), text)


def from_lines(keys: Sequence[str]) -> Iterator[Item]:
    """The lines of standard input: text, or an object where it begins with a brace.

    Args:
        keys: of the pipeline's inputs.
    """
    for number, raw in enumerate(sys.stdin.buffer):
        try:
            line = raw.decode("utf-8" if number else "utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield Item(_not_utf8(error), raw.decode("utf-8", "replace"))
            continue
        yield _read_object(line, keys) if line.lstrip().startswith("{") else Item(line, line)


def _read_object(line: str, keys: Sequence[str]) -> Item:
    try:
        values: dict[str, Any] = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return Item(InputError(f"not a JSON object: {why}. (A line that begins with a brace is read as JSON.)"), line)
    # a second text is never passed by: where the task has no pairs, the pipeline refuses it
    extra = {key: value for key, value in values.items() if key not in (*keys, "text_pair")}
    for key in (_ANSWER, _ERROR):
        if key in extra:
            return Item(InputError(f"the key '{key}' is where the answer is put; give it another name."), values)
    return Item({key: value for key, value in values.items() if key not in extra}, values, extra)


def _not_utf8(error: UnicodeDecodeError) -> InputError:
    return InputError(f"not UTF-8 ({error.reason} at byte {error.start}).")


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
        raise argparse.ArgumentTypeError(_not_utf8(error).message) from error


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
