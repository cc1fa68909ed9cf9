"""A job whose answers are lengths of texts, so that it takes no bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.formats import find_format
from xlm_runtime.jobs.job import Job, input_identity, run_job
from xlm_runtime.jobs.part import State, open_part
from xlm_runtime.pipelines.on_error import FailedItem

KEYS = ("text", "text_pair", "lang")


def answer(items: Iterable[Any]) -> Iterator[Any]:
    """A label and a score for each text; blank ones fail."""
    for number, item in enumerate(items, start=1):
        text = item if isinstance(item, (str, InputError)) else item.get("text", "")
        if isinstance(text, InputError):
            yield FailedItem.of(text, number)
        elif not text.strip():
            yield FailedItem(number, "InputError", "The text is empty.")
        else:
            yield {"label": text.split()[0], "score": len(text) / 3}


def run(
    source: Path, output: Path, answer: Any = answer, *, columns: dict[str, str] | None = None, **options: Any
) -> State:
    """Answer a file in chunks of four rows, each made sure of."""
    opening = {name: options.pop(name) for name in ("restart", "force") if name in options}
    identity = {"input": input_identity(source), "options": options.pop("identity", {})}
    formats = find_format(source, None, ""), find_format(output, None, "")
    with open_part(output, identity, **opening) as part:
        job = Job(source, *formats, columns, options.pop("on_error", "skip"), record_every=0)
        return run_job(job, part, answer, KEYS, chunk_rows=4, **options)
