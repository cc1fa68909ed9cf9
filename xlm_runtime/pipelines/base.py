"""The one way from inputs to answers, which every pipeline goes: preprocess, forward, postprocess."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar

from xlm_runtime.errors import InputError
from xlm_runtime.model.batcher import Batcher, BatchReport, Request
from xlm_runtime.model.batching import Sized, answer_group, answer_groups
from xlm_runtime.model.model import BundleModel, TextItem
from xlm_runtime.pipelines.on_error import ON_ERROR, FailedItem, FailedRows, try_each
from xlm_runtime.processes import PerProcess

O = TypeVar("O")  # noqa: E741  # the task's options
R = TypeVar("R", bound=Sized)  # what the model reads
T = TypeVar("T")  # what the model gives for each of them
A = TypeVar("A")  # an answer
P = TypeVar("P", bound="Pipeline[Any, Any, Any, Any]")

Languages = str | Sequence[str | None] | None
TextInput = str | Mapping[str, Any]
TextInputs = TextInput | Iterable[TextInput]
Answers: TypeAlias = A | FailedItem | list[A | FailedItem] | Iterator[A | FailedItem]
"""Of one input, of a list, of a stream."""


class Pipeline(ABC, Generic[O, R, T, A]):
    """A task on an opened bundle. A task fills in three steps; `answer` runs them, and a call makes the options.

    Threads may call it at the same time; with `submit` they share batches. It can be pickled, and is opened in the
    other process with the same arguments. In a `with` block it is closed at the end.

    Args:
        model: the opened bundle.

    Attributes:
        batching: how batches are formed.
        observe: is told of each batch of `submit`, in the thread that computes; for metrics.
    """

    input_keys: ClassVar[tuple[str, ...]] = ("text", "lang")
    """What a dictionary among the inputs may hold."""

    def __init__(self, model: BundleModel) -> None:
        self.model = model
        self.batching = model.batching
        self.observe: Callable[[BatchReport], None] | None = None
        self._batcher = PerProcess(Batcher)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.model,), {"batching": self.batching}

    def __enter__(self: P) -> P:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the model go, and its memory with it. What was submitted and is not computed yet fails, and so do later
        calls.

        Closing twice does no harm. A pipeline that nobody holds any more needs no closing.
        """
        self._batcher.get().close()
        self.model.close()

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
            EngineError: the engine failed, or the pipeline was closed.
        """
        self._check(inputs, lang, on_error, options)
        forward, postprocess = self._steps(options)
        if is_one(inputs):
            return answer_group(self._row(inputs, lang, on_error, options), forward, postprocess, self.batching)
        rows, as_list = self._rows(inputs, lang, on_error, options), is_column(inputs)
        answers = answer_groups(rows, forward, postprocess, self.batching, len(inputs) if as_list else None)
        if on_error == "skip":
            answers = (answer for answer in answers if not isinstance(answer, FailedItem))
        return list(answers) if as_list else answers

    def submit(self, *inputs: Any, **options: Any) -> Future[Any]:
        """Answer in a thread that all callers share: what they ask while a batch is computed is in the next one.

        Requests with equal options share batches, within the same budget of tokens as those of a call. A lone request
        is computed at once, unless `batching.max_wait_ms` lets it wait for others. The texts are tokenised here, in the
        caller's thread. Callbacks of the future run in the shared one, so they should be short and wait for no other
        future of this pipeline.

        Args:
            inputs, options: as in a call, of one input or a list.

        Returns:
            A future of what the call returns, or of its `InputError`. It can be cancelled until a batch has rows of it.
            An input that cannot be used is an error of its request alone; an engine that fails is one of all in the
            batch.

        Raises:
            OverloadedError: `batching.max_queue` requests wait already.
            EngineError: the pipeline was closed.
        """
        try:
            request = self._request(self._asked(*inputs, **options))
        except InputError as error:
            refused: Future[Any] = Future()
            refused.set_exception(error)
            return refused
        return self._batcher.get().submit(request)

    async def answer_async(self, *inputs: Any, **options: Any) -> Any:
        """Answer as `submit` does, for `await`, in any event loop. Cancelling the task cancels the request.

        Args:
            inputs, options: as in a call, of one input or a list.

        Raises:
            InputError: as in a call.
            OverloadedError, EngineError: see `submit`.
        """
        import asyncio  # slow to import, and who awaits has it

        return await asyncio.wrap_future(self.submit(*inputs, **options))

    def _asked(self, *inputs: Any, **options: Any) -> _Asked[O]:
        """What a call would have answered: the call of a twin whose `answer` gives back what it was given."""
        twin: Any = object.__new__(type(self))
        vars(twin).update(vars(self), answer=_Asked)
        asked: _Asked[O] = twin(*inputs, **options)
        return asked

    def _request(self, asked: _Asked[O]) -> Request:
        inputs, lang, on_error, options = asked.inputs, asked.lang, asked.on_error, asked.options
        self._check(inputs, lang, on_error, options)
        finish: Callable[[list[Any]], Any]
        if is_one(inputs):
            groups, finish = [self._row(inputs, lang, on_error, options)], _only
        elif is_column(inputs):
            groups = list(self._rows(inputs, lang, on_error, options))
            finish = _without_failed if on_error == "skip" else list
        else:
            raise InputError(f"A {type(inputs).__name__} was submitted; expected one input or a list of them.")
        forward, postprocess = self._steps(options)
        return Request(
            groups, forward, postprocess, finish, alike=options, batching=self.batching, observe=self.observe
        )

    def _steps(
        self, options: O
    ) -> tuple[Callable[[list[R]], Callable[[], Iterable[T]]], Callable[[Sequence[R], Sequence[T]], A | FailedItem]]:
        """`forward` and `postprocess` with the options."""

        def postprocess(rows: Sequence[R], outputs: Sequence[T]) -> A | FailedItem:
            return rows.failure if isinstance(rows, FailedRows) else self.postprocess(rows, outputs, options)

        return lambda batch: self.forward(batch, options), postprocess

    def _check(self, inputs: Any, lang: Languages, on_error: str, options: O) -> None:
        """Refuse what can be refused before an input is read."""
        self.model.check_open()
        check_choice("on_error", on_error, ON_ERROR)
        self.check(lang, options)
        if lang is None or isinstance(lang, str):
            return
        if is_one(inputs):
            raise InputError("One text was given with a list of languages; give lang as one string.")
        if is_column(inputs) and len(lang) != len(inputs):
            raise InputError(f"{len(inputs)} texts were given with {len(lang)} languages; give one for each.")

    def _row(self, item: Any, lang: Any, on_error: str, options: O) -> Sequence[R]:
        """The rows of the only input."""
        if on_error == "skip":
            raise InputError("on_error='skip' leaves out some of many inputs, and one was given; use 'return'.")
        try:
            return self.preprocess(item, lang, options)
        except InputError as error:
            if on_error == "raise":
                raise
            return FailedRows(FailedItem.of(error, 1))

    def _rows(self, inputs: Iterable[Any], lang: Languages, on_error: str, options: O) -> Iterator[Sequence[R]]:
        """The rows of each of many inputs."""

        def preprocess(given: tuple[Any, str | None]) -> Sequence[R]:
            item, language = given
            if isinstance(item, InputError):
                raise item
            return self.preprocess(item, language, options)

        for rows in try_each(with_languages(inputs, lang), preprocess, on_error):
            yield FailedRows(rows) if isinstance(rows, FailedItem) else rows


@dataclass
class _Asked(Generic[O]):
    """The arguments of `Pipeline.answer`."""

    inputs: Any
    lang: Languages = None
    on_error: str = "raise"
    options: O = field(kw_only=True)


def _only(answers: list[Any]) -> Any:
    return answers[0]


def _without_failed(answers: list[Any]) -> list[Any]:
    return [answer for answer in answers if not isinstance(answer, FailedItem)]


def is_one(inputs: Any) -> bool:
    """Whether inputs are a single one: a string, a mapping, or whatever is no collection, which is then refused."""
    return isinstance(inputs, (str, bytes, Mapping)) or not (is_column(inputs) or isinstance(inputs, Iterable))


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
