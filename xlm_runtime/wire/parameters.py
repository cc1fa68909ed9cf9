"""The parameters of a request become the arguments of a pipeline's call.

Their names are those of the call; of text generation, `GenerationOptions`'s too. In the Open Inference Protocol they
are flags, numbers and strings, so a list, or null, is JSON in a string: `targets='["Paris", "Rome"]'`.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from xlm_runtime.errors import InputError
from xlm_runtime.generation import GenerationOptions

# what the texts of the request stand for
_INPUTS = ("self", "inputs", "prompts", "question", "options")
# one for all texts of a request, though a call takes one for each: texts that differ come as JSON objects
_ONE: dict[str, Any] = {"lang": str | None, "context": str | None}
_GENERATION = {field.name for field in fields(GenerationOptions)}
_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a string",
    NoneType: "null",
    Sequence: "a list",
    tuple: "a list",
}


def call_arguments(pipe: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments for `pipe(texts, **arguments)`.

    Args:
        given: parameters by name, values as JSON has them, or in a string.

    Raises:
        InputError: a parameter that the pipeline does not have, or a value of another type, or one that is needed and
            is not there. Values out of their range are refused by the call.
    """
    accepted = _accepted(pipe.__class__)
    for name in given:
        if name not in accepted.hints:
            raise InputError(f"Unknown parameter '{name}'; this model has {', '.join(parameter_names(pipe))}.")
    for name in accepted.needed:
        if name not in given:
            raise InputError(f"The parameter {name} is missing; this model needs it with each request.")
    arguments = {name: _read(name, value, accepted.hints[name]) for name, value in given.items()}
    if not accepted.generates:
        return arguments
    generation = {name: arguments.pop(name) for name in _GENERATION & arguments.keys()}
    return {**arguments, "options": pipe.defaults.replace(**generation)}


def parameter_names(pipe: Any) -> list[str]:
    """What `call_arguments` knows for a pipeline."""
    return sorted(_accepted(pipe.__class__).hints)


class _Accepted(NamedTuple):
    """What a pipeline's call takes beside its inputs: types by name, and which it cannot do without."""

    hints: dict[str, Any]
    needed: tuple[str, ...]
    generates: bool
    """Whether `GenerationOptions` is among them."""


@cache
def _accepted(pipeline: type) -> _Accepted:
    call = inspect.signature(pipeline.__call__, eval_str=True).parameters
    generates = "options" in call
    hints = {name: parameter.annotation for name, parameter in call.items() if name not in _INPUTS}
    needed = tuple(name for name in hints if call[name].default is inspect.Parameter.empty)
    hints |= get_type_hints(GenerationOptions) if generates else {}
    return _Accepted(hints | {name: hint for name, hint in _ONE.items() if name in hints}, needed, generates)


def _read(name: str, value: Any, hint: Any) -> Any:
    """A value of the type that a call takes; lists become tuples."""
    readings = [value]
    if isinstance(value, str):
        with suppress(ValueError, RecursionError):
            readings.insert(0 if value.startswith("[") else 1, json.loads(value))
    for reading in readings:
        if _fits(reading, hint):
            return _as_tuple(reading)
    expected = dict.fromkeys(_NAMES[get_origin(member) or member] for member in _members(hint))
    raise InputError(f"The parameter {name} is {value!r}; expected {' or '.join(expected)}.")


def _fits(value: Any, hint: Any) -> bool:
    return any(_is(value, member) for member in _members(hint))


def _is(value: Any, kind: Any) -> bool:
    if get_origin(kind) in (Sequence, tuple):
        return isinstance(value, list) and all(_fits(item, get_args(kind)[0]) for item in value)
    return type(value) is kind or (kind is float and type(value) is int)


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value
