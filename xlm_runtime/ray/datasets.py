"""A dataset of Ray Data, and the same with answers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm_runtime.bundle.remote import local_bundle
from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import ANSWER, ERROR
from xlm_runtime.jobs.rows import Row, check_columns, to_item
from xlm_runtime.pipelines import PIPELINES, pipeline
from xlm_runtime.pipelines.base import check_choice
from xlm_runtime.pipelines.on_error import ON_ERROR, FailedItem
from xlm_runtime.ray.workers import Workers, cluster_cpus, require

# arguments of `pipeline` that `answers` has itself
_OWN = ("task", "model", "threads")


@dataclass(frozen=True)
class Asked:
    """What workers are asked, see `answers`."""

    task: str
    bundle: str
    threads: int | None
    columns: Mapping[str, str] | None
    on_error: str
    opening: Mapping[str, Any]
    options: Mapping[str, Any]


def answers(
    dataset: Any,
    task: str,
    bundle: str | Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    gpus_per_worker: float = 0.0,
    columns: Mapping[str, str] | None = None,
    on_error: str = "raise",
    opening: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    batch_size: int = 1024,
) -> Any:
    """The rows of a dataset with their answers, by workers that each open the bundle once.

    Like other transformations it computes when the result is read. Rows keep their order, for which
    `execution_options.preserve_order` is set in the dataset's context. A worker that dies is started anew.

    Args:
        dataset: a `ray.data.Dataset`. Columns with the names of the pipeline's inputs are these.
        task: a name out of `PIPELINES`.
        bundle: a folder that all machines have, or an address that fsspec reads, see `local_bundle`.
        workers: how many; each is an actor of Ray.
        threads: that each computes with; by default its share of the CPUs that Ray has.
        gpus_per_worker: 1, or a part where several share one. `opening` says which provider.
        columns: those that are read, by the name that each has in the input or beside the answer; by default all, under
            their own names.
        on_error: what becomes of a row that cannot be used: "raise" ends with an error; "return" gives it without an
            answer and with the reason in `error`; "skip" leaves it out.
        opening: further arguments of `pipeline`, such as `{"provider": "openvino"}`.
        options: arguments of the pipeline's call, such as `{"top_k": 2}`.
        batch_size: rows that a worker is given at once, out of which it makes batches of its own, by their tokens.

    Returns:
        A dataset of the columns that are no inputs, `answer`, as a pipeline gives it, and with "return" `error`
        (`{"type": …, "message": …}` or null).

    Raises:
        InputError: arguments that `pipeline` or the task's call do not have, or that cannot be sent to workers; fewer
            CPUs than workers.
        MissingExtraError: Ray is not installed.
    """
    require()
    placed = Workers(workers, threads, gpus_per_worker).placed(cluster_cpus())
    address = str(bundle) if "://" in str(bundle) else str(Path(bundle).absolute())
    asked = Asked(task, address, placed.threads, columns, on_error, opening or {}, options or {})
    _check(asked)
    dataset.context.execution_options.preserve_order = True
    return dataset.map_batches(
        RowWorker, fn_constructor_args=(asked,), batch_size=batch_size, batch_format="pyarrow", **placed.options()
    )


def _check(asked: Asked) -> None:
    """Refuse what can be refused before anything is started."""
    if asked.task not in PIPELINES:
        raise InputError(f"Unknown task '{asked.task}'; expected one of {', '.join(PIPELINES)}.")
    check_choice("on_error", asked.on_error, ON_ERROR)
    call = inspect.signature(PIPELINES[asked.task].load().__call__).parameters
    known = {
        "opening": [name for name in inspect.signature(pipeline).parameters if name not in _OWN],
        "options": [name for name in list(call)[2:] if name != "on_error"],  # without the pipeline itself and its input
    }
    dumps = require().cloudpickle.dumps
    for group, names in known.items():
        for name, value in getattr(asked, group).items():
            if name not in names:
                raise InputError(f"Unknown name '{name}' in {group}; {asked.task} has {', '.join(names)}.")
            try:
                dumps(value)
            except Exception as error:  # whatever an object of others raises
                raise InputError(
                    f"'{name}' in {group} is a {type(value).__name__}, which cannot be sent to workers ({error}); give "
                    "what can be pickled."
                ) from error


class RowWorker:
    """An actor: it opens a bundle once, and answers the rows of tables."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._pipe = pipeline(asked.task, local_bundle(asked.bundle), threads=asked.threads, **asked.opening)

    def __call__(self, table: Any) -> Any:
        """An Arrow table → that of the rows that are kept, with their answers beside the columns that are no inputs."""
        import pyarrow

        from xlm_runtime.jobs.parquet_files import to_array

        asked, keys = self._asked, self._pipe.input_keys
        check_columns(table.column_names, keys, asked.columns)
        items = [to_item(Row(n, values, 0), keys, asked.columns) for n, values in enumerate(table.to_pylist(), start=1)]
        answered = self._pipe([item.given for item in items], on_error="return", **asked.options)
        failed = [isinstance(answer, FailedItem) for answer in answered]
        if asked.on_error == "raise" and any(failed):
            raise InputError(
                f"{answered[failed.index(True)].message} on_error='return' or 'skip' goes on at such rows."
            )
        if asked.on_error == "skip":
            table = table.filter(pyarrow.array([not fails for fails in failed], pyarrow.bool_()))
            answered = [answer for answer, fails in zip(answered, failed, strict=True) if not fails]
            failed = [False] * len(answered)
        names = dict.fromkeys(name for item in items for name in item.extra)
        found = {name: table[asked.columns[name] if asked.columns else name] for name in names}
        found[ANSWER] = to_array([None if fails else answer for answer, fails in zip(answered, failed, strict=True)])
        if asked.on_error == "return":
            kind = pyarrow.struct({"type": pyarrow.string(), "message": pyarrow.string()})
            found[ERROR] = pyarrow.array([_error(answer) for answer in answered], kind)
        return pyarrow.table(found)


def _error(answer: Any) -> dict[str, str] | None:
    return {"type": answer.type, "message": answer.message} if isinstance(answer, FailedItem) else None
