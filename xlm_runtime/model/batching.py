"""Many sequences, few batches: grouped by length under a budget of tokens, answered in the order they came.

A padded token costs as much as a real one, so sequences of like length share a batch. In the packed layout it costs
something in attention only, and the budget counts real tokens. Padding never changes an answer: the graphs mask it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import pack
from typing import Generic, Protocol, TypeVar

import numpy as np

from xlm_runtime.errors import InputError, XLMError
from xlm_runtime.model.parts import Parts
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
    is read before the first answers are given. `overlapped`: the model is computed elsewhere than on the CPU, so that a
    window is read while the one before is computed.

    Of `Pipeline.submit`, where others call as well: `max_wait_ms` is how long a request waits for others that fill its
    batch up; at 0 a batch is computed as soon as the one before is. `max_queue` is how many requests may wait.
    """

    max_tokens: int = 512
    window_rows: int = 256
    window_tokens: int = 16384
    packed: bool = False
    overlapped: bool = False
    max_wait_ms: float = 0.0
    max_queue: int = 1024

    def __post_init__(self) -> None:
        for name in ("max_tokens", "window_rows", "window_tokens", "max_queue"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; expected a positive number.")
        if not self.max_wait_ms >= 0:
            raise InputError(f"max_wait_ms is {self.max_wait_ms}; expected milliseconds, 0 for none.")

    @property
    def reads_ahead(self) -> bool:
        """Whether a window is read before the one before it is answered: not where each row is to be answered as it
        comes."""
        return self.overlapped and self.window_rows > 1


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
        last = batches[-1] if batches else []
        if last and _is_one_batch(len(last) + 1, lengths[last[0]], tokens, max_tokens, packed):
            last.append(i)
        else:
            batches.append([i])
            tokens = lengths[i]
    return batches


def fill_batch(lengths: Sequence[int], max_tokens: int, packed: bool = False) -> list[int]:
    """Places of the rows of one batch: the first row, and as many as the budget has room for of those that are nearest
    to it in length.

    Args:
        lengths: tokens of each row.
        max_tokens, packed: see `plan_batches`.
    """
    batch: list[int] = []
    longest = tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: abs(lengths[i] - lengths[0])):
        longest, tokens = max(longest, lengths[i]), tokens + lengths[i]
        if batch and not _is_one_batch(len(batch) + 1, longest, tokens, max_tokens, packed):
            break
        batch.append(i)
    return batch


def is_full(lengths: Sequence[int], max_tokens: int, packed: bool = False) -> bool:
    """Whether rows exceed the budget of one batch, or would with another that is no longer than they are."""
    tokens = sum(lengths) + min(lengths)
    return not _is_one_batch(len(lengths) + 1, max(lengths), tokens, max_tokens, packed)


def _is_one_batch(rows: int, longest: int, tokens: int, max_tokens: int, packed: bool) -> bool:
    """Whether so many rows, with so many tokens in all, are within the budget of `plan_batches`."""
    places = rows * longest
    return places <= PACKED_PLACES * max_tokens and tokens <= max_tokens if packed else places <= max_tokens


def answer_groups(
    groups: Iterable[Sequence[R]],
    forward: Callable[[list[R]], Callable[[], Iterable[T]]],
    postprocess: Callable[[Sequence[R], Sequence[T]], A],
    options: BatchOptions,
    count: int | None = None,
) -> Iterator[A]:
    """Answer groups of rows (the windows of one text, the choices of one question), in order.

    Rows of different groups share batches. `groups` is read in bounded windows, as answers are taken. Where reading it
    or starting a batch fails, the windows before are answered first, and so are the groups before in a window that
    cannot be read to its end.

    With `options.reads_ahead` one batch is under way while the next window is read and the last one is answered, all in
    the calling thread: the device needs no other, and Python code of two threads runs in turns.

    Args:
        forward: starts a batch; what it returns waits for what the model gives for each of its rows.
        postprocess: a group and what the model gave for each of its rows → its answer, as soon as all are there.
        count: how many groups there are, where it is known.
    """
    under_way = 1 if options.reads_ahead else 0
    windows: deque[Groups[R, T, A]] = deque()  # without answers yet, in order
    started: deque[tuple[Groups[R, T, A], list[int], Callable[[], Iterable[T]]]] = deque()

    def start_each() -> Iterator[None]:
        for read in _read_windows(groups, options, count):
            window = Groups(read, postprocess)
            windows.append(window)
            yield
            for batch in window.plan(options):
                started.append((window, batch, forward(window.rows(batch))))
                yield

    def answers(most: int) -> Iterator[A]:
        """Those of windows that are complete when at most so many batches are under way."""
        while True:
            while windows and windows[0].is_complete():
                yield from windows.popleft().answers()
            if len(started) <= most:
                return
            window, batch, wait = started.popleft()
            window.take(batch, wait())

    starts = start_each()
    while True:
        try:
            next(starts)
        except StopIteration:
            yield from answers(0)
            return
        except Exception:
            yield from answers(0)
            raise
        yield from answers(under_way)


def answer_group(
    rows: Sequence[R],
    forward: Callable[[list[R]], Callable[[], Iterable[T]]],
    postprocess: Callable[[Sequence[R], Sequence[T]], A],
    options: BatchOptions,
) -> A:
    """The answer of one group, as `answer_groups` gives it."""
    outputs: dict[int, T] = {}
    for batch in plan_batches([len(row) for row in rows], options.max_tokens, options.packed):
        outputs |= zip(batch, forward([rows[i] for i in batch])(), strict=True)
    return postprocess(rows, [outputs[i] for i in range(len(rows))])


def _read_windows(
    groups: Iterable[Sequence[R]], options: BatchOptions, count: int | None
) -> Iterator[list[Sequence[R]]]:
    """The groups in windows. An error of theirs comes after the groups before it."""
    source = iter(groups)
    # a part is one batch: while one is computed that nobody has waited for, the next is read
    parts = Parts(count, options.max_tokens) if options.reads_ahead and options.packed else None
    while True:
        window: list[Sequence[R]] = []
        rows = tokens = longest = 0
        ending: Exception | None = None
        while ending is None and rows < options.window_rows and tokens < options.window_tokens:
            try:
                group = next(source)
            except (StopIteration, XLMError) as error:
                ending = error
                break
            window.append(group)
            rows += max(1, len(group))
            lengths = [len(row) for row in group]
            tokens += sum(lengths)
            longest = max([longest, *lengths])
            if parts is None:
                continue
            next_tokens = tokens + tokens // len(window)  # with one more group
            one_batch = _is_one_batch(rows + 1, longest, next_tokens, options.max_tokens, options.packed)
            if not one_batch or parts.is_full(tokens, len(window)):
                parts.take(tokens, len(window))
                break
        yield window
        if isinstance(ending, XLMError):
            raise ending
        if ending is not None:
            return


class Groups(Generic[R, T, A]):
    """Groups of rows that were read together, and their answers as they come.

    Args:
        groups: the rows of each.
        postprocess: see `answer_groups`; a group without rows is answered at once.
    """

    def __init__(self, groups: Sequence[Sequence[R]], postprocess: Callable[[Sequence[R], Sequence[T]], A]) -> None:
        self._groups = groups
        self._postprocess = postprocess
        self._flat = [(number, place) for number, group in enumerate(groups) for place in range(len(group))]
        self._outputs: list[dict[int, T]] = [{} for _ in groups]
        self._answers = {number: postprocess(group, ()) for number, group in enumerate(groups) if not group}
        self.lengths = [len(row) for group in groups for row in group]

    def plan(self, options: BatchOptions) -> list[list[int]]:
        """Batches, as places among all rows."""
        return plan_batches(self.lengths, options.max_tokens, options.packed)

    def rows(self, batch: Sequence[int]) -> list[R]:
        """Those at the places of a batch."""
        return [self._groups[number][place] for number, place in (self._flat[i] for i in batch)]

    def take(self, batch: Sequence[int], found: Iterable[T]) -> None:
        """What the model gave for the rows of a batch."""
        for i, output in zip(batch, found, strict=True):
            number, place = self._flat[i]
            group, outputs = self._groups[number], self._outputs[number]
            outputs[place] = output
            if len(outputs) == len(group):
                self._answers[number] = self._postprocess(group, [outputs[k] for k in range(len(outputs))])
                outputs.clear()

    def is_complete(self) -> bool:
        """Whether all answers are there."""
        return len(self._answers) == len(self._groups)

    def answers(self) -> Iterator[A]:
        """Those of all groups, in order, once."""
        for number in range(len(self._groups)):
            yield self._answers.pop(number)


def pad_rows(rows: Sequence[Tokenized], pad_id: int) -> dict[str, IntArray]:
    """`input_ids`, `attention_mask` and `langs` of a batch, each (rows, longest row) int64."""
    input_ids, attention_mask = pad([row.input_ids for row in rows], pad_id)
    langs = broadcast_rows([row.lang_id for row in rows], input_ids.shape[1])
    return {"input_ids": input_ids, "attention_mask": attention_mask, "langs": langs}


def join_rows(rows: Sequence[Sequence[int]]) -> IntArray:
    """The ids of all rows, one behind the other, (tokens,) int64."""
    # three times as fast as numpy is with lists
    return np.frombuffer(b"".join(pack(f"={len(row)}q", *row) for row in rows), np.int64)


def token_types(second: Sequence[int | None], longest: int) -> IntArray:
    """`token_type_ids` (rows, longest) of a batch as transformers 4's tokenizer gives them: 1 from each row's second
    text on, 0 before it and in rows without one."""
    first = np.array([longest if place is None else place for place in second])
    types: IntArray = (np.arange(longest) >= first[:, None]).astype(np.int64)
    return types
