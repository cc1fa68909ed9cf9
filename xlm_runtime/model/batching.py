"""Many sequences, few batches: grouped by length under a budget of tokens, answered in the order they came.

A padded token costs as much as a real one, so sequences of like length share a batch. In the packed layout it costs
something in attention only, and the budget counts real tokens. Padding never changes an answer: the graphs mask it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from xlm_runtime.errors import InputError, XLMError
from xlm_runtime.numerics import IntArray, broadcast_rows, pad


class Sized(Protocol):
    """Anything with a length in tokens."""

    def __len__(self) -> int: ...


class Tokenized(Sized, Protocol):
    """A tokenised sequence in one language."""

    @property
    def input_ids(self) -> Sequence[int]: ...

    @property
    def lang_id(self) -> int: ...

    @property
    def second(self) -> int | None:
        """The place of the first token of a second text, where there is one."""
        ...


# Rows × longest row of a packed batch, for each token of the budget. Heads that look at whole rows give each its own
# pack: without a bound, one long row among hundreds of short ones would take rows × longest² numbers.
PACKED_PLACES = 2

R = TypeVar("R", bound=Sized)
T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True)
class BatchOptions:
    """How batches are formed.

    `max_tokens` and `packed` are those of `plan_batches`; `window_rows` and `window_tokens` bound how much of a stream
    is read before the first answers are given.
    """

    max_tokens: int = 512
    window_rows: int = 256
    window_tokens: int = 16384
    packed: bool = False

    def __post_init__(self) -> None:
        for name in ("max_tokens", "window_rows", "window_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a positive number.")


def plan_batches(lengths: Sequence[int], max_tokens: int, packed: bool = False) -> list[list[int]]:
    """Indices into `lengths`, each once, in batches of like length.

    The longest come first: memory is at its peak in the first batch, not after hours.

    Args:
        lengths: tokens of each row.
        max_tokens: budget of a batch, which only a row that is longer by itself exceeds. It bounds rows × longest row
            in the padded layout, and the sum of the lengths in the packed one.
        packed: whether the graph has the packed layout. Its attention may be padded all the same, so rows × longest
            row stay within `PACKED_PLACES` budgets.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    batches: list[list[int]] = []
    tokens = 0  # of the last batch
    for i in order:
        tokens += lengths[i]
        places = (len(batches[-1]) + 1) * lengths[batches[-1][0]] if batches else 0
        fits = places <= PACKED_PLACES * max_tokens and tokens <= max_tokens if packed else places <= max_tokens
        if batches and fits:
            batches[-1].append(i)
        else:
            batches.append([i])
            tokens = lengths[i]
    return batches


def answer_groups(
    groups: Iterable[Sequence[R]],
    forward: Callable[[list[R]], Iterable[T]],
    postprocess: Callable[[Sequence[R], Sequence[T]], A],
    options: BatchOptions,
) -> Iterator[A]:
    """Answer groups of rows (the windows of one text, the choices of one question), in order.

    Rows of different groups share batches. `groups` is read in bounded windows, as answers are taken. Where reading
    it raises an `XLMError`, the groups before are answered first.

    Args:
        forward: a batch → what the model gives for each of its rows.
        postprocess: a group and what the model gave for each of its rows → its answer, as soon as all are there.
    """
    source = iter(groups)
    while True:
        window: list[Sequence[R]] = []
        failure: XLMError | None = None
        rows = tokens = 0
        while rows < options.window_rows and tokens < options.window_tokens:
            try:
                group = next(source)
            except StopIteration:
                break
            except XLMError as error:
                failure = error
                break
            window.append(group)
            rows += max(1, len(group))
            tokens += sum(len(row) for row in group)
        full = rows >= options.window_rows or tokens >= options.window_tokens
        yield from _answer_window(window, forward, postprocess, options)
        if failure is not None:
            raise failure
        if not full:
            return


def _answer_window(
    window: list[Sequence[R]],
    forward: Callable[[list[R]], Iterable[T]],
    postprocess: Callable[[Sequence[R], Sequence[T]], A],
    options: BatchOptions,
) -> Iterator[A]:
    flat = [(number, place, row) for number, group in enumerate(window) for place, row in enumerate(group)]
    outputs: dict[int, dict[int, T]] = {number: {} for number in range(len(window))}  # of groups without an answer
    answers = {number: postprocess(group, ()) for number, group in enumerate(window) if not group}
    for batch in plan_batches([len(row) for _, _, row in flat], options.max_tokens, options.packed):
        found = forward([flat[i][2] for i in batch])
        for i, output in zip(batch, found, strict=True):
            number, place, _ = flat[i]
            outputs[number][place] = output
            if len(outputs[number]) == len(window[number]):
                whole = outputs.pop(number)
                answers[number] = postprocess(window[number], [whole[k] for k in range(len(whole))])
    for number in range(len(window)):
        yield answers.pop(number)


def pad_rows(rows: Sequence[Tokenized], pad_id: int) -> dict[str, IntArray]:
    """`input_ids`, `attention_mask` and `langs` of a batch, each (rows, longest row) int64."""
    input_ids, attention_mask = pad([row.input_ids for row in rows], pad_id)
    langs = broadcast_rows([row.lang_id for row in rows], input_ids.shape[1])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "langs": langs}


def token_types(second: Sequence[int | None], longest: int) -> IntArray:
    """`token_type_ids` (rows, longest) of a batch as transformers 4's tokenizer gives them: 1 from each row's second
    text on, 0 before it and in rows without one."""
    first = np.array([longest if place is None else place for place in second])
    types: IntArray = (np.arange(longest) >= first[:, None]).astype(np.int64)
    return types
