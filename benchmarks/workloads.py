"""What is asked of every contender: sequences of given lengths, drawn anew each round, and how they may be batched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm_runtime.model.batching import plan_batches

FIRST_WORD = 14  # below are the special tokens
MASK = 5
BUDGET = 512  # tokens of one batch when sequences are sorted by length
TEXT_ROWS = 32  # of a batch, where many texts are known at once


@dataclass(frozen=True)
class Row:
    """One sequence; `mask` is the position whose logits a language model is asked for."""

    input_ids: list[int]
    lang_id: int = 0
    mask: int | None = None

    def __len__(self) -> int:
        return len(self.input_ids)

    def to_json(self) -> Any:
        return [self.input_ids, self.lang_id, self.mask]


@dataclass(frozen=True)
class TextRow:
    """A text with as many tokens as it says, special ones included."""

    text: str
    tokens: int

    def __len__(self) -> int:
        return self.tokens

    def to_json(self) -> Any:
        return self.text


Draw = Sequence[Sequence[Row | TextRow]]
"""Groups of sequences in the order of their arrival: each group is answered before the next one is known."""


@dataclass(frozen=True)
class Workload:
    """What is asked. `lengths` draws the groups' lengths; `batch_rows` is how many rows a batch has when nothing is
    sorted (None: a whole group); `calls` draws make one round.

    `do` is "run" (ids to logits), "texts" (texts to answers), "generate" (`new_tokens` more for each row) or "decode"
    (the same without the prompt: the time of `new_tokens` + 1 less that of the first alone).
    """

    name: str
    about: str
    lengths: Callable[[np.random.Generator], list[list[int]]]
    task: str = "text-classification"
    batch_rows: int | None = None
    calls: int = 1
    do: str = "run"
    new_tokens: int = 0

    def draw(self, rng: np.random.Generator, vocab_size: int, n_langs: int) -> list[list[Row]]:
        """Other ids each time, and other lengths where the workload leaves them open."""
        return [[self._row(length, rng, vocab_size, n_langs) for length in group] for group in self.lengths(rng)]

    def _row(self, length: int, rng: np.random.Generator, vocab_size: int, n_langs: int) -> Row:
        ids = rng.integers(FIRST_WORD, vocab_size, length).tolist()
        ids[0] = ids[-1] = 1  # </s> around the text
        mask = int(rng.integers(1, length - 1)) if self.task == "fill-mask" else None
        if mask is not None:
            ids[mask] = MASK
        return Row(ids, int(rng.integers(n_langs)), mask)


def draw_lengths(
    rng: np.random.Generator, count: int, low: int, high: int, total: int, longest: int | None = None
) -> list[int]:
    """`count` lengths between `low` and `high` that sum to `total`, in random order; `longest` is one of them.

    Uniform draws, then single tokens are added to or taken from rows drawn at random until the sum is right.

    Raises:
        ValueError: no such lengths exist.
    """
    free = count - (longest is not None)
    rest = total - (longest or 0)
    if not free * low <= rest <= free * high:
        raise ValueError(f"No {count} lengths between {low} and {high} sum to {total}.")
    lengths = rng.integers(low, high + 1, free)
    while (missing := rest - int(lengths.sum())) != 0:
        step = 1 if missing > 0 else -1
        movable = np.flatnonzero(lengths < high if step > 0 else lengths > low)
        chosen = rng.choice(movable, min(abs(missing), len(movable)), replace=False)
        lengths[chosen] += step
    return [int(n) for n in rng.permutation([*lengths, *([longest] if longest is not None else [])])]


def draw_groups(rng: np.random.Generator, count: int, low: int, high: int) -> list[int]:
    """Sizes of groups between `low` and `high` that sum to `count`."""
    sizes: list[int] = []
    while (rest := count - sum(sizes)) > high:
        sizes.append(int(rng.integers(low, min(high, rest - low) + 1)))
    if rest:
        sizes.append(rest)
    return sizes


def fixed(rows: int, tokens: int) -> Callable[[np.random.Generator], list[list[int]]]:
    return lambda rng: [[tokens] * rows]


def mixed(rng: np.random.Generator) -> list[list[int]]:
    return [draw_lengths(rng, 8, 10, 128, total=512, longest=128)]


def short(rng: np.random.Generator) -> list[list[int]]:
    return [draw_lengths(rng, 32, 6, 40, total=736, longest=40)]


def stream(rng: np.random.Generator) -> list[list[int]]:
    return [draw_lengths(rng, 134, 8, 128, total=8750, longest=128)]


def online(rng: np.random.Generator) -> list[list[int]]:
    lengths = stream(rng)[0]
    ends = np.cumsum(draw_groups(rng, len(lengths), 2, 8)).tolist()
    return [lengths[start:end] for start, end in zip([0, *ends], ends, strict=False)]


CPU_WORKLOADS = (
    Workload("1x16", "one sequence of 16 tokens", fixed(1, 16), calls=12),
    Workload("1x128", "one sequence of 128 tokens", fixed(1, 128), calls=4),
    Workload("8x128", "8 sequences of 128 tokens", fixed(8, 128)),
    Workload("mixed", "8 sequences of 10 to 128 tokens, 512 in all: half of a padded batch is padding", mixed),
    Workload("short", "32 sequences of 6 to 40 tokens, 736 in all", short),
    Workload("stream", "134 sequences of 8 to 128 tokens, 8,750 in all, all known at once", stream, batch_rows=8),
    Workload("online", "such sequences in groups of 2 to 8, each answered before the next comes", online),
    Workload("fill-mask", "one mask in 128 tokens", fixed(1, 128), task="fill-mask", calls=4),
)

AS_IT_COMES, ONE_BY_ONE, SORTED, OWN = "as it comes", "one by one", f"sorted, {BUDGET} tokens", "its own batches"
AT_MASK, ALL_LOGITS = "logits at the mask", "all logits"
AS_GIVEN = "one call"
PADDED_WAYS = (AS_IT_COMES, ONE_BY_ONE, SORTED)


def useful_ways(ways: Sequence[str], workload: Workload, draw: Draw) -> list[str]:
    """Those of a contender's ways that differ on this workload.

    Single rows have no batches; a group within the budget or of equal lengths still has: one by one can be faster.
    """
    if workload.do != "run":
        return [AS_GIVEN] if ways else []
    heads = (AT_MASK, ALL_LOGITS)
    if workload.task == "fill-mask":
        return [way for way in ways if way in heads] or [way for way in ways if way == OWN]
    batching = [way for way in ways if way not in heads]
    if all(len(group) == 1 for group in draw):
        return batching[-1:] if OWN in batching else batching[:1]
    return batching


def plan(way: str, lengths: Sequence[int], batch_rows: int | None) -> list[list[int]]:
    """Indices of one group's rows, in batches."""
    if way == ONE_BY_ONE:
        return [[i] for i in range(len(lengths))]
    if way == SORTED:
        return plan_batches(lengths, BUDGET)
    if way in (AS_IT_COMES, AT_MASK, ALL_LOGITS):
        size = batch_rows or len(lengths)
        return [list(range(start, min(start + size, len(lengths)))) for start in range(0, len(lengths), size)]
    raise ValueError(f"Unknown way '{way}'.")


def text_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Indices of texts, in batches for a padded or packed peer: all at once, or if many the longest first."""
    if len(lengths) <= TEXT_ROWS:
        return [list(range(len(lengths)))]
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    return [order[start : start + TEXT_ROWS] for start in range(0, len(order), TEXT_ROWS)]
