"""The rows of a file, answered by workers of Ray.

Whoever writes the answers reads the rows, too, in their order, so that files, journals and errors are those of a job in
one process (`xlm_runtime.jobs`), byte for byte. What goes through Ray Data are chunks of rows: a task on this machine
reads them a second time, actors answer them, and the answers come back in the order of the chunks. An actor that dies
is started anew, and answers again what it had not given back.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from xlm_runtime.errors import BundleError, EngineError, InputError, XLMError
from xlm_runtime.jobs.job import Answer, Job
from xlm_runtime.jobs.rows import to_item
from xlm_runtime.ray.workers import Workers, require

CHUNKS = 4
"""Chunks of a task. Each task takes Ray some milliseconds; what a worker that dies had of its task is done again."""


@dataclass(frozen=True)
class _Failure:
    """Why a worker has no answers. (Errors themselves may not survive pickling.)"""

    kind: type[XLMError]
    message: str

    @classmethod
    def of(cls, error: XLMError) -> _Failure:
        kind = next((kind for kind in (InputError, BundleError) if isinstance(error, kind)), EngineError)
        return cls(kind, f"{error} (on {socket.gethostname()})")


class ChunkWorker:
    """An actor: it opens a bundle once, and answers chunks.

    Args:
        opening: opens what answers. An error of it is given in place of the answers.
    """

    def __init__(self, opening: Callable[[], Answer]) -> None:
        self._answer: Answer | _Failure
        try:
            self._answer = opening()
        except XLMError as error:
            self._answer = _Failure.of(error)

    def __call__(self, tasks: Any) -> Any:
        """Rows of a task's number and its pickled chunks → rows of its number and the pickled answers."""
        answers = [self._answers(pickle.loads(chunks.as_py())) for chunks in tasks["chunks"]]
        return _table(tasks["number"].to_pylist(), "answers", answers)

    def _answers(self, chunks: list[list[Any]]) -> list[list[Any]] | _Failure:
        if isinstance(self._answer, _Failure):
            return self._answer
        try:
            return [list(self._answer(chunk)) for chunk in chunks]
        except XLMError as error:
            return _Failure.of(error)


@contextmanager
def answering(
    job: Job, keys: Sequence[str], opening: Callable[[], Answer], workers: Workers, *, done: int, chunk_rows: int
) -> Iterator[Answer]:
    """What `run_job` asks for the answers of one chunk after the other, in a process that is connected to Ray.

    Args:
        job, keys, chunk_rows: those of `run_job`.
        opening: opens what answers, in each worker. It is pickled.
        workers: with their number of threads.
        done: rows of the input that are not asked for.

    Raises:
        EngineError: Ray failed. (A worker that dies is started anew.)
    """
    with closing(_chunks(job, keys, opening, workers, done, chunk_rows)) as chunks:

        def answer(items: Iterable[Any]) -> list[Any]:
            asked = sum(1 for _ in items)
            found = next(chunks, [])
            if len(found) != asked:
                raise InputError(f"'{job.input}' changed while it was read; begin anew with --restart.")
            return found

        yield answer


def _chunks(
    job: Job, keys: Sequence[str], opening: Callable[[], Answer], workers: Workers, done: int, chunk_rows: int
) -> Generator[list[Any], None, None]:
    """The answers of each chunk."""
    ray = require()
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # every row is a block by itself, and so a task
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    with ray.data.DataContext.current(context):
        tasks = ray.data.from_items([{"done": done}]).map_batches(
            _read_tasks,
            fn_kwargs={"job": replace(job, input=job.input.absolute()), "keys": keys, "chunk_rows": chunk_rows},
            batch_format="pyarrow",
            num_cpus=0,
            label_selector=here,  # only this machine need have the file
        )
        answers = tasks.map_batches(
            ChunkWorker, fn_constructor_args=(opening,), batch_size=1, batch_format="pyarrow", **workers.options()
        )
    try:
        for expected, row in enumerate(answers.iter_rows()):
            found = pickle.loads(row["answers"])
            if isinstance(found, _Failure):
                raise found.kind(found.message)
            if row["number"] != expected:
                raise EngineError(f"Ray gave the answers of task {row['number']} in the place of {expected}.")
            yield from found
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray failed: {str(error).strip().splitlines()[-1]}") from error


def _read_tasks(begin: Any, job: Job, keys: Sequence[str], chunk_rows: int) -> Iterator[Any]:
    """The rows of a file that are not done, chunk by chunk, so many in a task."""
    (done,) = begin["done"].to_pylist()
    items = (to_item(row, keys, job.columns).given for row in islice(job.rows(), done, None))
    number = 0
    while rows := list(islice(items, CHUNKS * chunk_rows)):
        chunks = [rows[start : start + chunk_rows] for start in range(0, len(rows), chunk_rows)]
        yield _table([number], "chunks", [chunks])
        number += 1


def _table(numbers: Sequence[int], name: str, values: Sequence[Any]) -> Any:
    """Values as an Arrow table, one a row, each pickled."""
    import pyarrow

    return pyarrow.table({"number": numbers, name: pyarrow.array(map(pickle.dumps, values), pyarrow.binary())})
