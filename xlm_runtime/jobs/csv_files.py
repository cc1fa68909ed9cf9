"""CSV and TSV files with a header, in UTF-8. A field may hold line ends; an empty one is no value."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import ANSWER, ERROR, Item, to_json
from xlm_runtime.jobs.rows import Answered, Row
from xlm_runtime.pipelines.on_error import FailedItem

_DELIMITERS = ",;\t|"
_HEAD = 1 << 16  # bytes that a header is looked for in

Read: TypeAlias = Callable[[Path, Sequence[str] | None], Iterator[Row]]
Encode: TypeAlias = Callable[[Sequence[Answered], Sequence[str] | None], tuple[Iterable[bytes], Sequence[str]]]


def reader(delimiter: str | None = None) -> Read:
    """A function that gives the rows of a file, fields by the header's names.

    Args:
        delimiter: None for that of comma, semicolon, tab and bar which splits the header into most names.
    """
    return partial(_read, delimiter)


def columns_reader(delimiter: str | None = None) -> Callable[[Path], Sequence[str] | None]:
    """A function that gives the names in a file's header, None for an empty file."""
    return partial(_read_columns, delimiter)


def encoder(delimiter: str) -> Encode:
    """A function from answered rows to lines, the first time with a header before them.

    What a row has besides its answer stands under its own name; the parts of an answer that is an object under
    `answer.label` and alike, another answer in JSON under `answer`, and why a row failed under `error`.
    """
    return partial(_encode, delimiter)


def _read(delimiter: str | None, path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        for number, raw in enumerate(file):
            end += len(raw)
            # bytes that are no UTF-8 are found when their row is complete
            yield raw.decode("utf-8" if number else "utf-8-sig", "surrogateescape")

    names = _read_columns(delimiter, path)
    if names is None:
        return
    with path.open("rb") as file:
        rows = csv.reader(lines(), delimiter=delimiter or _delimiter(path), strict=True)
        next(rows)
        while True:
            first = rows.line_num + 1
            try:
                fields = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                where = f" (lines {first} to {rows.line_num})" if rows.line_num > first else ""
                yield Row(first, InputError(f"no row of a CSV file: {error}{where}."), end)
                continue
            if fields:  # a blank line is none
                yield Row(first, _read_fields(fields, names), end)


def _read_fields(fields: Sequence[str], names: Sequence[str]) -> Mapping[str, Any] | InputError:
    if len(fields) != len(names):
        return InputError(f"the row has {len(fields)} fields, and the header {len(names)}.")
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return InputError("not UTF-8; save the file as UTF-8.")
    return {name: field or None for name, field in zip(names, fields, strict=True)}


def _read_columns(delimiter: str | None, path: Path) -> list[str] | None:
    with path.open("rb") as file:
        head = file.read(_HEAD)
    try:
        lines = io.StringIO(head.decode("utf-8-sig", "surrogateescape"), newline="")
        names = next(csv.reader(lines, delimiter=delimiter or _delimiter(path), strict=True), None)
        "".join(names or ()).encode()
    except (csv.Error, UnicodeEncodeError) as error:
        raise InputError(f"'{path}' does not begin with the header of a CSV file in UTF-8 ({error}).") from error
    if names is not None and len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"The header of '{path}' has '{twice}' twice; give each column a name of its own.")
    return names


def _delimiter(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(_HEAD).decode("utf-8-sig", "replace")

    def names(delimiter: str) -> int:
        try:
            return len(next(csv.reader(io.StringIO(head, newline=""), delimiter=delimiter), ()))
        except csv.Error:
            return 0

    return max(_DELIMITERS, key=names)


def _encode(
    delimiter: str, answered: Sequence[Answered], columns: Sequence[str] | None
) -> tuple[Iterable[bytes], Sequence[str]]:
    records = [_flat(item, answer) for item, answer in answered]
    fixed = list(dict.fromkeys(name for record in records for name in record)) if columns is None else list(columns)
    known = {*fixed}
    for record in records:
        if unknown := [name for name in record if name not in known]:
            raise InputError(
                f"A row has '{unknown[0]}', which the rows before had not, whose columns the file has "
                f"({', '.join(fixed)}). Write it as jsonl, or choose with --columns what comes back."
            )
    text = io.StringIO()
    writer = csv.DictWriter(text, fixed, delimiter=delimiter, lineterminator="\n")
    if columns is None:
        writer.writeheader()
    writer.writerows(records)
    return [text.getvalue().encode("utf-8", "backslashreplace")], fixed


def _flat(item: Item, answer: Any) -> dict[str, Any]:
    """The fields of a row."""
    row = {name: _field(value) for name, value in item.extra.items()}
    if isinstance(answer, FailedItem):
        return row | {ERROR: answer.message}
    if isinstance(answer, Mapping):
        return row | {f"{ANSWER}.{name}": _field(value) for name, value in answer.items()}
    return row | {ANSWER: to_json(answer)}


def _field(value: Any) -> Any:
    if isinstance(value, (dict, list, np.ndarray)):
        return to_json(value)
    return value
