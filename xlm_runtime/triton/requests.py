"""Requests that Triton hands over together are answered together, and an error stays with its request."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.wire.parameters import call_arguments
from xlm_runtime.wire.texts import as_json, read_text, take_on_error

Answer = list[bytes] | Exception
"""JSON for each text of a request, or why there is none."""


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
        on_error = take_on_error(arguments)
        texts = [read_text(text) for request in requests for text in request.texts]
        answers = iter(pipe(texts, on_error="return", **arguments))
        return [_of_one(list(islice(answers, len(request.texts))), on_error) for request in requests]
    except InputError as error:  # about the parameters, which all of them have
        return [error] * len(requests)
    except Exception as error:  # perhaps for what one of them asked, such as too little memory
        return [error] if len(requests) == 1 else [_answer_alike(pipe, [request])[0] for request in requests]


def _of_one(answers: Sequence[Any], on_error: str) -> Answer:
    """The answers to the texts of one request."""
    try:
        return [answer.encode() for answer in as_json(answers, on_error)]
    except InputError as error:
        return error
