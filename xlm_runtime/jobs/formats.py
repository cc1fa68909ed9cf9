"""The one table of the formats of files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xlm_runtime.errors import InputError
from xlm_runtime.jobs import csv_files, lines, parquet_files
from xlm_runtime.jobs.rows import Answered, Row


@dataclass(frozen=True)
class Format:
    """How files are read and written.

    Attributes:
        suffixes: of such files' names.
        read: the rows of a file; of a wide one no more than the columns given are needed.
        encode: answered rows → bytes to append, and what the format has to know of the columns when the next rows come,
            if anything. It is given what it returned before, None for the first rows.
        columns: those of a file, where all rows have the same; None where each row names its own, or the file is empty.
        join: makes the output of all bytes that were appended, where these are not the output itself.
        require: whether packages that it takes are there.
        unit: what rows are counted in.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, Sequence[str] | None], Iterator[Row]]
    encode: Callable[[Sequence[Answered], Sequence[str] | None], tuple[Iterable[bytes], Sequence[str] | None]]
    columns: Callable[[Path], Sequence[str] | None] = lambda path: None
    join: Callable[[Path, Path], None] | None = None
    require: Callable[[], object] = lambda: None
    unit: str = "line"


FORMATS = {
    "csv": Format((".csv",), csv_files.reader(), csv_files.encoder(","), csv_files.columns_reader()),
    "tsv": Format((".tsv",), csv_files.reader("\t"), csv_files.encoder("\t"), csv_files.columns_reader("\t")),
    "jsonl": Format((".jsonl", ".ndjson"), lines.read_jsonl, lines.encode_jsonl),
    "parquet": Format(
        (".parquet", ".pq"),
        parquet_files.read,
        parquet_files.encode,
        parquet_files.read_columns,
        parquet_files.join,
        parquet_files.require,
        "row",
    ),
    "text": Format((".txt",), lines.read_text, lines.encode_text),
}


def find_format(path: Path, name: str | None, option: str) -> Format:
    """The format of this name, or the one that a file's name says.

    Args:
        option: what names it.

    Raises:
        InputError: neither says one.
        MissingExtraError: the format takes a package that is not installed.
    """
    by_suffix = {suffix: row for row in FORMATS.values() for suffix in row.suffixes}
    found = FORMATS[name] if name else by_suffix.get(path.suffix.lower())
    if found is None:
        raise InputError(
            f"The name '{path}' does not say what the file holds; end it in {', '.join(by_suffix)}, or give {option} "
            f"({', '.join(FORMATS)})."
        )
    found.require()
    return found
