"""Files that others wrote: read without a surprise, and JSON checked against a table before any field is used.

A table is a `Check`: a function of a value and where it stands, which raises `MismatchError`. `record`, `list_of` and
`map_of` make checks out of others, so a file's format is one expression.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.errors import BundleError

MOST_BYTES = 64 * 2**20
"""Of a JSON or text file: ten times the largest vocabulary there is."""
MOST_LEVELS = 64
"""Of lists and objects in one another."""

Check = Callable[[Any, str], None]

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
          stat.S_IFBLK: "a device"}  # fmt: skip


class MismatchError(ValueError):
    """A value that is not what a table says."""

    def __init__(self, value: Any, where: str, expected: str) -> None:
        shown = repr(value)
        shown = f"{shown[:60]}…" if len(shown) > 60 else shown
        super().__init__(f"{where or 'it'} is {shown}, expected {expected}")


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file. Pipes and devices, which could be read for ever, are not opened.

    Raises:
        FileNotFoundError: it is missing.
        BundleError: no regular file, larger than `most` bytes, or it may not be read.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            content = file.read(most + 1)
    except (FileNotFoundError, BundleError):
        raise
    except (OSError, ValueError) as error:  # ValueError: a path that no system has
        raise BundleError(f"'{path}' cannot be read ({error}); check its path and permissions.") from error
    if len(content) > most:
        raise BundleError(f"'{path}' has more than {most >> 20} MiB, the most that is read of such a file; it is none "
                          "that this project wrote.")  # fmt: skip
    return content


def check_regular(path: Path) -> None:
    """Whether a path leads to a regular file.

    Raises:
        OSError: as `Path.stat`.
        BundleError: it leads to something else.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise BundleError(f"'{path}' is {_KINDS.get(kind, 'no regular file')}, expected a regular file; copy the "
                          "folder again, or export it again.")  # fmt: skip


def read_text(path: Path) -> str:
    """A text in UTF-8.

    Raises:
        FileNotFoundError: it is missing.
        BundleError: see `read_file`, or another encoding.
    """
    return decode(path, read_file(path))


def decode(path: Path, content: bytes) -> str:
    """The text of a file in UTF-8.

    Raises:
        BundleError: another encoding.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BundleError(f"'{path}' is not UTF-8 text: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        FileNotFoundError: it is missing.
        BundleError: see `read_text`; it holds something else, or lists in lists beyond `MOST_LEVELS`.
    """
    text = read_text(path)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BundleError(f"'{path}' must hold a JSON object, got {type(values).__name__}.")
    if _too_deep(values):
        raise BundleError(f"'{path}' has more than {MOST_LEVELS} levels of lists and objects; it is none that this "
                          "project wrote.")  # fmt: skip
    return values


def check(values: Any, table: Check, file: str, remedy: str) -> None:
    """Hold what a file has against its table.

    Raises:
        BundleError: file, value, what was expected, and the remedy.
    """
    try:
        table(values, "")
    except MismatchError as error:
        raise BundleError(f"{file} is damaged: {error}; {remedy}.") from error


def tree(value: Any, where: str) -> None:
    """Any value, all of whose strings can be written in UTF-8."""
    if isinstance(value, dict):
        map_of(text, tree)(value, where)
    elif isinstance(value, list):
        list_of(tree)(value, where)
    elif isinstance(value, str):
        text(value, where)


def text(value: Any, where: str) -> None:
    """A string that can be written in UTF-8."""
    if not isinstance(value, str) or not _is_unicode(value):
        raise MismatchError(value, where, "a string")


def flag(value: Any, where: str) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise MismatchError(value, where, "true or false")


def matching(pattern: str, expected: str) -> Check:
    """A string that a regular expression matches as a whole."""
    compiled = re.compile(pattern)

    def match(value: Any, where: str) -> None:
        if not isinstance(value, str) or not compiled.fullmatch(value) or not _is_unicode(value):
            raise MismatchError(value, where, expected)

    return match


def one_of(*choices: str) -> Check:
    """One of some strings."""

    def choose(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in choices:
            raise MismatchError(value, where, f"one of {', '.join(choices)}")

    return choose


def whole(least: int, most: int) -> Check:
    """A whole number between two, both included."""

    def bound(value: Any, where: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise MismatchError(value, where, f"a whole number from {least} to {most}")

    return bound


def positive(value: Any, where: str) -> None:
    """A number above 0 that is finite."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
        raise MismatchError(value, where, "a positive number")


def nullable(inner: Check) -> Check:
    """Null, or what `inner` takes."""

    def either(value: Any, where: str) -> None:
        if value is not None:
            inner(value, where)

    return either


def list_of(inner: Check, least: int = 0, most: int | None = None) -> Check:
    """A list of `least` to `most` of the like."""

    def each(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise MismatchError(value, where, "a list")
        if len(value) < least or (most is not None and len(value) > most):
            raise MismatchError(
                value, where, f"a list of {least} or more" if most is None else f"{least} to {most} entries"
            )
        for i, item in enumerate(value):
            inner(item, f"{where}[{i}]")

    return each


def map_of(key: Check, inner: Check) -> Check:
    """An object of any keys that `key` takes, whose values are alike."""

    def each(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise MismatchError(value, where, "an object")
        for name, item in value.items():
            key(name, f"a name in {where or 'it'}")
            inner(item, f"{where}[{name!r}]")

    return each


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with certain keys; others may be there, and are not looked at."""
    known = {**required, **(optional or {})}

    def each(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise MismatchError(value, where, "an object")
        for name in required:
            if name not in value:
                raise MismatchError(value, where, f"an object with '{name}'")
        for name, inner in known.items():
            if name in value:
                inner(value[name], f"{where}.{name}" if where else f"'{name}'")

    return each


def _is_unicode(value: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON can spell and nothing can write."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _too_deep(values: Any) -> bool:
    level, depth = [values], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            return True
        nested = [item for item in level if isinstance(item, (dict, list))]
        level = [inner for item in nested for inner in (item.values() if isinstance(item, dict) else item)]
    return False
