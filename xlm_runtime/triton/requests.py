"""Requests that Triton hands over together are answered together, and an error stays with its request."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.pipelines.base import check_choice
from xlm_runtime.pipelines.on_error import FailedItem
from xlm_runtime.triton.parameters import call_arguments

Answer = list[bytes] | Exception
"""JSON for each text of a request, or why there is none."""

_ON_ERROR = ("raise", "return")


@dataclass(frozen=True)
class Request:
    """What one caller asks.

    Attributes:
        texts: UTF-8; where one begins with a brace, a JSON object with the keys of the pipeline's inputs.
        parameters: see `call_arguments`. `on_error` "return" puts `{"error": …}` in the place of an answer, where else
            the whole request fails.
    """

    texts: Sequence[bytes]
    parameters: Mapping[str, Any]


def answer_requests(pipe: Any, requests: Sequence[Request]) -> list[Answer]:
    """The answer to each request. The texts of all that have the same parameters go through one call.

    Args:
        pipe: what `xlm_runtime.pipeline` returned.
    """
    alike: defaultdict[str, list[int]] = defaultdict(list)
    for place, request in enumerate(requests):
        alike[json.dumps(request.parameters, sort_keys=True)].append(place)
    answers: dict[int, Answer] = {}
    for places in alike.values():
        answers.update(zip(places, _answer_alike(pipe, [requests[place] for place in places]), strict=True))
    return [answers[place] for place in range(len(requests))]


def _answer_alike(pipe: Any, requests: Sequence[Request]) -> list[Answer]:
    try:
        arguments = call_arguments(pipe, requests[0].parameters)
        on_error = arguments.pop("on_error", _ON_ERROR[0])
        check_choice("on_error", on_error, _ON_ERROR)
        texts = [_read(text) for request in requests for text in request.texts]
        answers = iter(pipe(texts, on_error="return", **arguments))
        return [_of_one(list(islice(answers, len(request.texts))), on_error) for request in requests]
    except InputError as error:  # about the parameters, which all of them have
        return [error] * len(requests)
    except Exception as error:  # perhaps for what one of them asked, such as too little memory
        return [error] if len(requests) == 1 else [_answer_alike(pipe, [request])[0] for request in requests]


def _read(text: bytes) -> str | dict[str, Any] | InputError:
    """A text, or the object that it holds, or why it cannot be read."""
    try:
        decoded = text.decode("utf-8")
        return json.loads(decoded) if decoded.lstrip().startswith("{") else decoded
    except UnicodeDecodeError as error:
        return InputError(f"not UTF-8 ({error.reason} at byte {error.start}).")
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        return InputError(f"not a JSON object: {why}. (A text that begins with a brace is read as JSON.)")


def _of_one(answers: Sequence[Any], on_error: str) -> Answer:
    """The answers to the texts of one request, which are counted from 1."""
    written = []
    for number, answer in enumerate(answers, start=1):
        if isinstance(answer, FailedItem) and on_error == "raise":
            return InputError(answer.message, number if len(answers) > 1 else None)
        value = replace(answer, item=number).to_dict() if isinstance(answer, FailedItem) else answer
        written.append(json.dumps(value, ensure_ascii=False, default=_plain).encode())
    return written


def _plain(value: Any) -> Any:
    """Arrays for JSON, with the nine digits that float32 has at most."""
    if value.ndim > 1:
        return [_plain(row) for row in value]
    return [float(f"{number:.9g}") for number in value.tolist()]
