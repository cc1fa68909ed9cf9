"""One input of many and its answer, as rows of files and lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.pipelines.on_error import FailedItem

# where an answer stands beside the keys of its row
ANSWER, ERROR = "answer", "error"


@dataclass(frozen=True)
class Item:
    """One input.

    Attributes:
        given: what the pipeline is asked, or why it cannot be read.
        shown: what a table has for a title.
        extra: the row's keys that are none of the pipeline's, which come back beside the answer.
    """

    given: Any
    shown: Any
    extra: dict[str, Any] = field(default_factory=dict)

    def record(self, answer: Any) -> dict[str, Any]:
        """A row with the answer, or with why there is none."""
        return self.extra | (answer.to_dict() if isinstance(answer, FailedItem) else {ANSWER: answer})

    def json_line(self, answer: Any) -> str:
        """The row in JSON; an answer without further keys stands for itself."""
        return to_json(self.record(answer) if self.extra or isinstance(answer, FailedItem) else answer)


def to_json(value: Any) -> str:
    """A value on one line.

    Raises:
        InputError: JSON has no form for what it holds.
    """
    return json.dumps(value, ensure_ascii=False, default=_plain)


def read_object(line: str) -> dict[str, Any]:
    """A line that is a JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"not a JSON object: {why}. (What begins with a brace is read as JSON.)") from error
    if not isinstance(values, dict):
        raise InputError(f"not a JSON object, but a {type(values).__name__}.")
    return values


def from_values(values: Mapping[str, Any], keys: Sequence[str]) -> Item:
    """The input in a row of names and values.

    Args:
        keys: of the pipeline's inputs; what else the row has comes back with the answer.
    """
    # a second text is never passed by: where the task has no pairs, the pipeline refuses it
    extra = {key: value for key, value in values.items() if key not in (*keys, "text_pair")}
    for key in (ANSWER, ERROR):
        if key in extra:
            return Item(InputError(f"the key '{key}' is where the answer is put; give it another name."), values)
    return Item({key: value for key, value in values.items() if key not in extra}, values, extra)


def not_utf8(error: UnicodeDecodeError) -> InputError:
    """Why bytes cannot be read."""
    return InputError(f"not UTF-8 ({error.reason} at byte {error.start}).")


def _plain(value: Any) -> Any:
    """What JSON has no form for: arrays, with the nine digits that float32 has at most, and dates."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if not hasattr(value, "ndim"):
        raise InputError(
            f"A row holds a {type(value).__name__}, which JSON has no form for; leave it out by --columns."
        )
    if value.ndim > 1:
        return [_plain(row) for row in value]
    return [float(f"{number:.9g}") for number in value.tolist()]
