"""What pipelines accept: one text, a list or a stream; and what they return: one answer, a list or a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from xlm_runtime.errors import InputError
from xlm_runtime.model.model import TextItem

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741

Languages = str | Sequence[str | None] | None
TextInput = str | Mapping[str, Any]
TextInputs = TextInput | Iterable[TextInput]


def read_text(item: Any, lang: str | None, *, pairs: bool = False) -> TextItem:
    """A string, or a mapping with "text" and optionally "lang" and (with `pairs`) "text_pair".

    Raises:
        InputError: anything else.
    """
    if isinstance(item, str):
        return TextItem(item, None, lang)
    values = read_mapping(item, ("text",), ("text_pair", "lang") if pairs else ("lang",))
    return TextItem(values["text"], values.get("text_pair"), values.get("lang", lang))


def read_mapping(
    item: Any, needed: tuple[str, ...], optional: tuple[str, ...], lists: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    """The item itself, if it is a mapping with strings under all `needed` keys and some of the `optional` ones.

    Args:
        lists: further keys that may be there, which are not looked at.

    Raises:
        InputError: another type, another key, or a value that is no string.
    """
    known = (*needed, *optional, *lists)
    if not isinstance(item, Mapping):
        raise InputError(
            f"An input must be a string or a dictionary with the keys {', '.join(known)}; got {type(item).__name__}."
        )
    for key in item:
        if key not in known:
            raise InputError(f"Unknown key '{key}' in an input; a dictionary may have the keys {', '.join(known)}.")
    for key in (*needed, *optional):
        value = item.get(key)
        if not isinstance(value, str) and (key in needed or value is not None):
            found = f"is a {type(value).__name__}" if key in item else "is missing"
            raise InputError(f"'{key}' {found} in an input; expected a string.")
    return item


def respond(
    inputs: Any,
    lang: Languages,
    read: Callable[[Any, str | None], I],
    answer: Callable[[Iterator[I]], Iterator[T]],
) -> T | list[T] | Iterator[T]:
    """Answer one input with one answer, a list or tuple with a list, any other iterable with a lazy iterator.

    Args:
        inputs: a string, a mapping, or many of them.
        lang: a language for all, or one for each of many.
        read: an input and its language → what `answer` takes.
        answer: gives one answer for each, in order, and reads ahead only as far as it needs.

    Raises:
        InputError: languages that do not match the inputs in number.
    """
    if isinstance(inputs, (str, Mapping)) or not isinstance(inputs, Iterable):
        if lang is not None and not isinstance(lang, str):
            raise InputError("One text was given with a list of languages; give lang as one string.")
        return next(answer(iter([read(inputs, lang)])))
    if isinstance(inputs, (list, tuple)):
        if lang is not None and not isinstance(lang, str) and len(lang) != len(inputs):
            raise InputError(f"{len(inputs)} texts were given with {len(lang)} languages; give one for each.")
        return list(answer(_read_all(inputs, lang, read)))
    return answer(_read_all(inputs, lang, read))


def _read_all(inputs: Iterable[Any], lang: Languages, read: Callable[[Any, str | None], I]) -> Iterator[I]:
    if lang is None or isinstance(lang, str):
        for item in inputs:
            yield read(item, lang)
        return
    languages = iter(lang)
    for item in inputs:
        try:
            language = next(languages)
        except StopIteration:
            raise InputError(f"There are more texts than the {len(lang)} languages given.") from None
        yield read(item, language)
