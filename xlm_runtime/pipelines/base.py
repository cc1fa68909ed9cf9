"""The one way from inputs to answers, which every pipeline goes: preprocess, forward, postprocess."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from xlm_runtime.errors import InputError
from xlm_runtime.model.batching import Sized, answer_group, answer_groups
from xlm_runtime.model.model import BundleModel, TextItem
from xlm_runtime.pipelines.on_error import ON_ERROR, FailedItem, FailedRows, try_each

O = TypeVar("O")  # noqa: E741  # the task's options
R = TypeVar("R", bound=Sized)  # what the model reads
T = TypeVar("T")  # what the model gives for each of them
A = TypeVar("A")  # an answer

Languages = str | Sequence[str | None] | None
TextInput = str | Mapping[str, Any]
TextInputs = TextInput | Iterable[TextInput]
Answers: TypeAlias = A | FailedItem | list[A | FailedItem] | Iterator[A | FailedItem]
"""Of one input, of a list, of a stream."""


class Pipeline(ABC, Generic[O, R, T, A]):
    """A task on an opened bundle. A task fills in three steps; `answer` runs them, and a call makes the options.

    It can be pickled, and is opened in the other process with the same arguments.

    Args:
        model: the opened bundle.
    """

    input_keys: ClassVar[tuple[str, ...]] = ("text", "lang")
    """What a dictionary among the inputs may hold."""

    def __init__(self, model: BundleModel) -> None:
        self.model = model
        self.batching = model.batching

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model,), {"batching": self.batching}

    def check(self, lang: Languages, options: O) -> None:
        """Refuse options that do not fit the model, before an input is read. Some tasks have nothing to refuse.

        Raises:
            InputError: they do not.
        """

    @abstractmethod
    def preprocess(self, item: Any, lang: str | None, options: O) -> Sequence[R]:
        """One input → the rows that the model reads for it.

        Raises:
            InputError: an input that cannot be used.
        """

    @abstractmethod
    def forward(self, batch: list[R], options: O) -> Callable[[], Iterable[T]]:
        """Start a batch of rows. What it returns waits for what the model gives for each."""

    @abstractmethod
    def postprocess(self, rows: Sequence[R], outputs: Sequence[T], options: O) -> A:
        """The rows of one input, and what the model gave for each → its answer."""

    def answer(self, inputs: Any, *, lang: Languages = None, on_error: str = "raise", options: O) -> Answers[A]:
        """Answer one input with one answer, a list or tuple with a list, any other iterable with a lazy iterator.

        A column counts as a list: a pandas Series, an array of strings, whatever has a length and places. What comes
        before an input that cannot be used is answered first.

        Args:
            inputs: a string, a mapping, or many of them. An `InputError` among them stands for one that could not be
                read.
            lang: a language for all, or one for each of many.
            on_error: what becomes of an input that cannot be used: "raise" ends with its error; "return" gives a
                `FailedItem` in the answer's place; "skip" leaves it out.
            options: the task's.

        Raises:
            InputError: languages that do not match the inputs in number, options that do not fit the model, or an
                input that cannot be used, which the error numbers.
        """
        check_choice("on_error", on_error, ON_ERROR)
        self.check(lang, options)
        if isinstance(inputs, (str, bytes, Mapping)):
            return self._answer_one(inputs, lang, on_error, options)
        as_list = is_column(inputs)
        if not as_list and not isinstance(inputs, Iterable):
            return self._answer_one(inputs, lang, on_error, options)
        if as_list and lang is not None and not isinstance(lang, str) and len(lang) != len(inputs):
            raise InputError(f"{len(inputs)} texts were given with {len(lang)} languages; give one for each.")
        rows = self._rows(inputs, lang, on_error, options)
        answers = self._answers(rows, options, len(inputs) if as_list else None)
        if on_error == "skip":
            answers = (answer for answer in answers if not isinstance(answer, FailedItem))
        return list(answers) if as_list else answers

    def _answer_one(self, item: Any, lang: Languages, on_error: str, options: O) -> A | FailedItem:
        if lang is not None and not isinstance(lang, str):
            raise InputError("One text was given with a list of languages; give lang as one string.")
        if on_error == "skip":
            raise InputError("on_error='skip' leaves out some of many inputs, and one was given; use 'return'.")
        try:
            rows = self.preprocess(item, lang, options)
        except InputError as error:
            if on_error == "raise":
                raise
            return FailedItem.of(error, 1)
        return answer_group(
            rows,
            lambda batch: self.forward(batch, options),
            lambda rows, outputs: self.postprocess(rows, outputs, options),
            self.batching,
        )

    def _rows(
        self, inputs: Iterable[Any], lang: Languages, on_error: str, options: O
    ) -> Iterator[Sequence[R] | FailedRows]:
        def preprocess(given: tuple[Any, str | None]) -> Sequence[R]:
            item, language = given
            if isinstance(item, InputError):
                raise item
            return self.preprocess(item, language, options)

        for rows in try_each(with_languages(inputs, lang), preprocess, on_error):
            yield FailedRows(rows) if isinstance(rows, FailedItem) else rows

    def _answers(
        self, groups: Iterable[Sequence[R] | FailedRows], options: O, count: int | None
    ) -> Iterator[A | FailedItem]:
        def postprocess(rows: Sequence[R], outputs: Sequence[T]) -> A | FailedItem:
            return rows.failure if isinstance(rows, FailedRows) else self.postprocess(rows, outputs, options)

        return answer_groups(groups, lambda batch: self.forward(batch, options), postprocess, self.batching, count)


def is_column(inputs: Any) -> bool:
    """Whether inputs are a list, or alike: an array, a Series, a column, with a length and places.

    Raises:
        InputError: an array or table of more than one dimension.
    """
    if getattr(inputs, "ndim", 1) != 1:
        raise InputError(
            f"The inputs are a {type(inputs).__name__} of {inputs.ndim} dimensions; give one column, a list of texts."
        )
    places = all(hasattr(inputs, name) for name in ("__len__", "__getitem__"))
    return places and not isinstance(inputs, (str, bytes, Mapping))


def with_languages(inputs: Iterable[Any], lang: Languages) -> Iterator[tuple[Any, str | None]]:
    """Each input with its language.

    Raises:
        InputError: there are more inputs than languages.
    """
    if lang is None or isinstance(lang, str):
        for item in inputs:
            yield item, lang
        return
    languages = iter(lang)
    for item in inputs:
        try:
            language = next(languages)
        except StopIteration:
            raise InputError(f"There are more texts than the {len(lang)} languages given.") from None
        yield item, language


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


def check_top_k(top_k: int | None) -> None:
    """Whether it is a count, or None for all; raises InputError where it is neither."""
    if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
        raise InputError(f"top_k is {top_k!r}; expected a positive number, or None for all.")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Whether an option has one of its values; raises InputError where it has not."""
    if value not in known:
        raise InputError(f"Unknown {name} '{value}'; expected one of {', '.join(known)}.")
