"""A file of inputs into a file of answers, in their order."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.formats import Format
from xlm_runtime.jobs.part import Part, State
from xlm_runtime.jobs.rows import Answered, Row, check_columns, to_item
from xlm_runtime.pipelines.on_error import FailedItem

Answer = Callable[[Iterable[Any]], Iterable[Any]]
_HEAD = 1 << 16  # bytes of an input that tell it from another of its size


@dataclass(frozen=True)
class Job:
    """What is read and written, and how.

    Attributes:
        input: a file.
        reads: its format.
        writes: the output's format.
        columns: see `to_item`.
        on_error: what becomes of a row that cannot be used: "raise" ends the job; "skip" leaves it out; "return" gives
            a row with the error in its place. The last two also note it in OUTPUT.errors.jsonl.
        record_every: seconds between two times that work is made sure of; each waits for the disk.
    """

    input: Path
    reads: Format
    writes: Format
    columns: Mapping[str, str] | None = None
    on_error: str = "raise"
    record_every: float = 1.0

    def rows(self) -> Iterator[Row]:
        """Those of the input."""
        return self.reads.read(self.input, None if self.columns is None else list(self.columns.values()))


def input_identity(path: Path) -> dict[str, Any]:
    """What tells that an input has changed.

    Raises:
        InputError: it is no regular file.
    """
    if path.is_dir():
        raise InputError(f"'{path}' is a folder, expected a file; give its files one by one.")
    if not path.exists():
        raise InputError(f"File '{path}' not found.")
    if not path.is_file():
        raise InputError(f"'{path}' is no regular file; write - in place of --input to read lines from a pipe.")
    status = path.stat()
    with path.open("rb") as file:
        head = hashlib.sha256(file.read(_HEAD)).hexdigest()
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns, "head": head}


def run_job(
    job: Job,
    part: Part,
    answer: Answer,
    keys: Sequence[str],
    chunk_rows: int = 256,
    progress: Callable[[int, int], None] = lambda rows, end: None,
) -> State:
    """Answer the rows that are not done yet, and put the output in its place.

    Rows are answered in chunks that begin at multiples of `chunk_rows`, and no batch reaches over a chunk's end. So the
    answers of a job that was cut are those of one that was not, to the last digit.

    Args:
        answer: inputs (an `InputError` among them stands for one that cannot be read) → for each its answer or a
            `FailedItem`.
        keys: of the pipeline's inputs.
        progress: is called with the rows that are done and the bytes of the input up to there; first with those that
            were done before.

    Raises:
        InputError: the input has not the columns, changed meanwhile, or with "raise" holds a row that cannot be used.
    """
    if not part.state.finished:
        before = input_identity(job.input)
        there = job.reads.columns(job.input)
        if there is not None:
            check_columns(there, keys, job.columns)
        _answer_rows(job, part, answer, keys, chunk_rows, progress)
        if input_identity(job.input) != before:
            raise InputError(f"'{job.input}' changed while it was read; begin anew with --restart.")
    part.finish(job.writes.join)
    return part.state


def _answer_rows(
    job: Job, part: Part, answer: Answer, keys: Sequence[str], chunk_rows: int, progress: Callable[[int, int], None]
) -> None:
    read = job.rows()
    end = 0
    for row in islice(read, part.state.rows):
        end = row.end
    progress(part.state.rows, end)
    recorded = time.monotonic()
    while chunk := list(islice(read, chunk_rows)):
        items = [to_item(row, keys, job.columns) for row in chunk]
        kept: list[Answered] = []
        errors: list[bytes] = []
        for row, item, given in zip(chunk, items, answer(item.given for item in items), strict=True):
            if not isinstance(given, FailedItem):
                kept.append((item, given))
                continue
            if job.on_error == "raise":
                raise _ended(part, f"{job.reads.unit} {row.number}", given)
            failure = replace(given, item=row.number)
            errors.append(f"{item.json_line(failure)}\n".encode("utf-8", "backslashreplace"))
            if job.on_error == "return":
                kept.append((item, failure))
        done = part.state
        columns: Sequence[str] | None = done.columns
        data: Iterable[bytes] = ()
        if kept:
            data, columns = job.writes.encode(kept, columns)
        state = replace(
            done,
            rows=done.rows + len(chunk),
            failed=done.failed + len(errors),
            columns=None if columns is None else tuple(columns),
        )
        part.append(data, errors, state)
        progress(state.rows, chunk[-1].end)
        if time.monotonic() - recorded >= job.record_every:
            part.record()
            recorded = time.monotonic()


def _ended(part: Part, where: str, failure: FailedItem) -> InputError:
    done = part.state.rows
    further = f" {done} rows are done; the same command with --on-error skip goes on behind them." if done else ""
    return InputError(f"{where}: {failure.message}{further}")


def digest(values: Any) -> str:
    """The sha256 of values in JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
