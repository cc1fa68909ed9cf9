"""What readers of files give and writers take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import Item, from_values

Answered: TypeAlias = tuple[Item, Any]
"""An input and its answer, or the `FailedItem` in its place."""

# inputs that are lists; in a CSV file they are written in JSON
_LISTS = ("choices", "words")
# no input is made of these alone
_SIDE_KEYS = ("text_pair", "lang", "question_lang")


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        number: its first line, or its place in a Parquet file, from 1.
        values: a text, names and values, or why it cannot be read.
        end: bytes of the file up to its end; in a Parquet file about so many.
    """

    number: int
    values: str | Mapping[str, Any] | InputError
    end: int


def to_item(row: Row, keys: Sequence[str], columns: Mapping[str, str] | None) -> Item:
    """The input in a row. Values that are null count as absent.

    Args:
        keys: of the pipeline's inputs.
        columns: the columns that are read, by the name that each has in the input or beside the answer; None for all,
            under their own names.
    """
    values = row.values
    if not isinstance(values, Mapping):
        if columns is not None and isinstance(values, str):
            values = InputError("a text without columns, and --columns names some; leave it out.")
        return Item(values, values)
    if columns is not None:
        if absent := [column for column in columns.values() if column not in values]:
            return Item(InputError(f"no '{absent[0]}' in this row, which has {', '.join(values)}."), values)
        values = {name: values[column] for name, column in columns.items()}
    item = from_values(values, keys)
    if isinstance(item.given, InputError):
        return item
    given = {key: value for key, value in item.given.items() if value is not None}
    try:
        for key in _LISTS:
            if isinstance(given.get(key), str):
                given[key] = json.loads(given[key])
    except ValueError as error:
        return Item(InputError(f"'{key}' is no list in JSON ({error})."), values, item.extra)
    return Item(given, item.shown, item.extra)


def check_columns(there: Sequence[str], keys: Sequence[str], columns: Mapping[str, str] | None) -> None:
    """Whether a file has the columns that are asked for, and one with an input.

    Args:
        there: the file's columns.

    Raises:
        InputError: it has not; the message lists those that are there.
    """
    listed = f"the file has the columns {', '.join(map(repr, there))}"
    for column in () if columns is None else columns.values():
        if column not in there:
            raise InputError(f"There is no column '{column}'; {listed}.")
    needed = [key for key in keys if key not in _SIDE_KEYS]
    if not set(needed) & set(there if columns is None else columns):
        raise InputError(
            f"No column is called {' or '.join(map(repr, needed))}; {listed}. Say which one it is: "
            f"--columns {needed[0]}=COLUMN, and behind commas those that shall come back with the answers."
        )
