"""Parquet files by pyarrow, which is imported when one is read or written."""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.bundle.atomic import drafts
from xlm_runtime.errors import InputError, MissingExtraError
from xlm_runtime.jobs.rows import Answered, Row

_READ_ROWS = 1024
# a row group is written when it has one or the other
_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 1 << 26


def require() -> Any:
    """pyarrow.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "Reading and writing Parquet files") from error
    return pyarrow


def read(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    """The rows of a file, in batches; the columns given alone."""
    size = path.stat().st_size
    with _open(path) as file:
        total, number = file.metadata.num_rows, 0
        wanted = None if columns is None else list(dict.fromkeys(columns))
        for batch in file.iter_batches(_READ_ROWS, columns=wanted):
            for values in batch.to_pylist():
                number += 1
                yield Row(number, values, size * number // total)


def read_columns(path: Path) -> list[str]:
    """The names of a file's columns."""
    with _open(path) as file:
        return list(file.schema_arrow.names)


def _open(path: Path) -> Any:
    pyarrow = require()
    try:
        return pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"'{path}' is no Parquet file: {error}") from error


def encode(answered: Sequence[Answered], columns: Sequence[str] | None) -> tuple[Iterable[bytes], Sequence[str]]:
    """Answered rows as an Arrow stream. Streams can stand behind each other, and `join` makes a file of them: a Parquet
    file itself cannot grow after a cut, as its end is written last.

    Args:
        columns: None, or one string, the schema of all rows before, in base64. So values that no column has room for
            are found when they come, and not at the end.

    Raises:
        InputError: values of several kinds under one name.
    """
    pyarrow = require()
    records = [item.record(answer) for item, answer in answered]
    names = dict.fromkeys(name for record in records for name in record)
    try:
        arrays = {name: to_array([record.get(name) for record in records]) for name in names}
        table = pyarrow.table(arrays)
        before = pyarrow.ipc.read_schema(pyarrow.py_buffer(b64decode(columns[0]))) if columns else pyarrow.schema([])
        schema = pyarrow.unify_schemas([before, table.schema], promote_options="permissive")
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise InputError(
            f"A Parquet column has values of one kind ({error}). Write jsonl, or choose other columns by --columns."
        ) from error
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return [sink.getvalue().to_pybytes()], [b64encode(schema.serialize()).decode()]


def to_array(values: Sequence[Any]) -> Any:
    """Values as an Arrow array; matrices as lists of vectors."""
    matrices = [list(each) if isinstance(each, np.ndarray) and each.ndim > 1 else each for each in values]
    return require().array(matrices)


def join(part: Path, output: Path) -> None:
    """Write the streams of a part as one Parquet file, in row groups of bounded size.

    Raises:
        InputError: rows that no common columns have room for.
    """
    pyarrow = require()
    try:
        schemas = [pyarrow.schema([]), *(table.schema for table in _tables(part))]  # none of an input without rows
        schema = pyarrow.unify_schemas(schemas, promote_options="permissive")
        with drafts(output) as (draft,):
            with pyarrow.parquet.ParquetWriter(draft, schema) as writer:
                group: list[Any] = []
                for table in _tables(part):
                    group.append(_in_schema(table, schema))
                    if sum(map(len, group)) >= _GROUP_ROWS or sum(each.nbytes for each in group) >= _GROUP_BYTES:
                        writer.write_table(pyarrow.concat_tables(group))
                        group.clear()
                if group:
                    writer.write_table(pyarrow.concat_tables(group))
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, pyarrow.ArrowNotImplementedError) as error:
        raise InputError(f"The rows do not fit one Parquet file ({error}); write them as jsonl.") from error


def _tables(part: Path) -> Iterator[Any]:
    pyarrow = require()
    size = part.stat().st_size
    with pyarrow.OSFile(str(part)) as file:
        while file.tell() < size:
            yield pyarrow.ipc.open_stream(file).read_all()


def _in_schema(table: Any, schema: Any) -> Any:
    """The table with all columns of the schema, in its types; absent values are null."""
    if table.schema.equals(schema):
        return table
    pyarrow = require()
    absent = {field.name: pyarrow.nulls(len(table), field.type) for field in schema}
    there = {name: pyarrow.array(table[name].to_pylist(), schema.field(name).type) for name in table.column_names}
    return pyarrow.table(absent | there, schema=schema)
