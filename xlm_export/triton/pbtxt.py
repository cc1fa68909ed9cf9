"""A model's configuration as Triton reads it: protobuf's text format of `model_config.proto`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

Message = Mapping[str, Any]
"""Fields by name: strings, numbers, flags, constants, messages, or lists of these."""


class Constant(str):
    """A value of an enumeration, such as `TYPE_INT64`, which stands without quotes."""


def text_of(message: Message) -> str:
    """A message's fields, in their order; empty lists are left out."""
    return "\n".join(_lines(message)) + "\n"


def _lines(message: Message) -> Iterator[str]:
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield f"{name} {{"
            yield from (f"  {line}" for line in _lines(value))
            yield "}"
        elif isinstance(value, (str, int)):
            yield f"{name}: {_scalar(value)}"
        elif all(isinstance(item, (str, int)) for item in value):
            if value:
                yield f"{name}: [{', '.join(map(_scalar, value))}]"
        else:
            for item in value:
                yield from _lines({name: item})


def _scalar(value: Any) -> str:
    if isinstance(value, Constant):
        return value
    return json.dumps(value, ensure_ascii=False)  # true and false, numbers, and strings with \" and \\ are the same
