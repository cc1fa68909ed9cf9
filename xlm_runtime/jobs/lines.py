"""Files with one input a line: JSON Lines and plain text, in UTF-8."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import not_utf8, read_object
from xlm_runtime.jobs.rows import Answered, Row
from xlm_runtime.pipelines.on_error import FailedItem

# where answers of the tasks have their text
_TEXT_KEYS = ("generated_text", "label", "answer", "choice", "sequence")


def read_text(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """A text a line."""
    return _read(path)


def read_jsonl(path: Path, columns: Sequence[str] | None = None) -> Iterator[Row]:
    """A JSON object or a string in JSON a line. Blank lines are passed over."""
    for row in _read(path):
        if not isinstance(row.values, str):
            yield row
        elif row.values.strip():
            yield Row(row.number, _read_json(row.values.strip()), row.end)


def _read(path: Path) -> Iterator[Row]:
    end = 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            end += len(raw)
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                yield Row(number, not_utf8(error), end)
            else:
                yield Row(number, line, end)


def _read_json(line: str) -> str | Mapping[str, Any] | InputError:
    try:
        if line.startswith('"'):
            text: str = json.loads(line)
            return text
        return read_object(line)
    except InputError as error:
        return error
    except ValueError as error:
        return InputError(f"not a string in JSON: {error}.")


def encode_jsonl(answered: Sequence[Answered], columns: Sequence[str] | None) -> tuple[Iterable[bytes], None]:
    """Lines as `xlm-runtime --json` prints them."""
    return (f"{item.json_line(answer)}\n".encode("utf-8", "backslashreplace") for item, answer in answered), None


def encode_text(answered: Sequence[Answered], columns: Sequence[str] | None) -> tuple[Iterable[bytes], None]:
    """The best answer's text a line; an empty line where there is no answer.

    Raises:
        InputError: answers of this task are more than a text.
    """
    lines = ("" if isinstance(answer, FailedItem) else _best_text(answer) for _, answer in answered)
    return (f"{' '.join(line.splitlines())}\n".encode("utf-8", "backslashreplace") for line in lines), None


def _best_text(answer: Any) -> str:
    best = answer[0] if isinstance(answer, list) and answer else answer
    if isinstance(best, Mapping):
        texts = [best[key] for key in _TEXT_KEYS if isinstance(best.get(key), str)]
        if texts or "labels" in best:
            return str(texts[0] if texts else best["labels"][0])
    raise InputError("Answers of this task are more than a text; write them as jsonl, csv or parquet.")
