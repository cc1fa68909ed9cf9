"""Texts and answers as they go over the wire: a text is plain, or a JSON object; an answer is JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import not_utf8, read_object, to_json
from xlm_runtime.pipelines.base import check_choice
from xlm_runtime.pipelines.on_error import FailedItem

ON_ERROR = ("raise", "return")
"""What a request may ask for, see `as_json`. An answer that is left out would shift those behind it."""


def read_text(text: str | bytes) -> str | dict[str, Any] | InputError:
    """A text, or where it begins with a brace the object that it holds, or why it cannot be read."""
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        return read_object(decoded) if decoded.lstrip().startswith("{") else decoded
    except UnicodeDecodeError as error:
        return not_utf8(error)
    except InputError as error:
        return error


def take_on_error(arguments: dict[str, Any]) -> str:
    """Take `on_error` out of the arguments of a call: by default "raise".

    Raises:
        InputError: it is not one of `ON_ERROR`.
    """
    on_error = str(arguments.pop("on_error", ON_ERROR[0]))
    check_choice("on_error", on_error, ON_ERROR)
    return on_error


def as_json(answers: Sequence[Any], on_error: str) -> list[str]:
    """JSON for the answer to each text of one request, which are counted from 1.

    Args:
        on_error: "return" puts `{"error": …}` in the place of an answer.

    Raises:
        InputError: with "raise", why one of the texts has no answer.
    """
    written = []
    for number, answer in enumerate(answers, start=1):
        if isinstance(answer, FailedItem) and on_error == "raise":
            raise InputError(answer.message, number if len(answers) > 1 else None)
        written.append(to_json(replace(answer, item=number).to_dict() if isinstance(answer, FailedItem) else answer))
    return written
