"""Whole generations, in steps, for a graph with a cache: made without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xlm_export.verification.batches import MOST_LOGIT_POSITIONS, SENTENCES
from xlm_runtime.config import XLMConfig
from xlm_runtime.model.cache import CHUNK, KeyValueCache
from xlm_runtime.model.languages import NO_LANG
from xlm_runtime.numerics import pad
from xlm_runtime.sessions import Session
from xlm_runtime.tasks import TensorSpec
from xlm_runtime.tokenization import XLMTokenizer

# Single-token steps of the longest case; the steps before them are taken at once.
MOST_STEPS = 48


@dataclass(frozen=True)
class GenerationCase:
    """A batch that is fed in pieces.

    `inputs` are the graph's over the whole generation, (batch, total), rows with shorter prompts padded on the left;
    `pieces` are the numbers of tokens of each step, `total` in all; `past` is the cache that it begins with, which
    grows by chunks of 1 (no room behind the past) or more.
    """

    name: str
    inputs: dict[str, np.ndarray]
    pieces: tuple[int, ...]
    past: KeyValueCache


def generation_cases(
    graph_inputs: Sequence[TensorSpec],
    config: XLMConfig,
    tokenizer: XLMTokenizer,
    seed: int = 0,
    *,
    sentences: Sequence[str] | None = None,
    no_lang: bool = True,
) -> list[GenerationCase]:
    """The generations for a graph: seeded ids and sentences, prompts of different lengths, prefill in one and more.

    Args:
        no_lang: the graph knows -1 in `langs`.
        sentences: make generations of these alone, four rows each, the first third of the tokens as a prompt.
    """
    rng = np.random.default_rng(seed)
    names = {spec.name for spec in graph_inputs}
    longest = config.max_position_embeddings

    def drawn(lengths: list[int]) -> list[np.ndarray]:
        return [rng.integers(0, config.vocab_size, max(0, length)) for length in lengths]

    if sentences is not None:
        most = min(longest, MOST_STEPS)
        ids = [np.asarray(item[:most], dtype=np.int64) for item in tokenizer(list(sentences))["input_ids"]]
        cases = []
        for rows in (ids[start : start + 4] for start in range(0, len(ids), 4)):
            total = max(len(row) for row in rows)
            prompt = max(1, total // 3)
            pieces = [prompt, *[1] * (total - prompt)]
            cases.append(_case(f"{len(rows)} texts", names, config, rows, pieces, CHUNK, rng, no_lang))
        return cases
    short, steps = min(16, longest), min(MOST_STEPS, longest - 1)
    encoded = tokenizer([sentence * 4 for sentence in SENTENCES[:4]])["input_ids"]
    texts = [np.asarray(ids[: min(longest, MOST_STEPS)], dtype=np.int64) for ids in encoded]
    total = max(len(ids) for ids in texts)
    lengths: dict[str, tuple[list[np.ndarray], list[int], int]] = {
        "from one token, one by one": (drawn([short]), [1] * short, 1),
        "3 prompts of unequal length": (drawn([short, short - 5, short - 9]), [11, *[1] * 5], CHUNK),
        "one row all padding": (drawn([short, 0, short - 2]), [9, *[1] * 7], 4),
        "prefill in 3 pieces, then in twos": (drawn([short, short - 3]), [3, 6, 1, 2, 2, 2], 5),
        f"2 × {longest}": (drawn([longest, longest - 7]), [longest - steps, *[1] * steps], CHUNK),
        f"{len(texts)} texts": (texts, [total // 3, *[1] * (total - total // 3)], 1),
    }
    return [
        _case(name, names, config, ids, pieces, chunk, rng, no_lang) for name, (ids, pieces, chunk) in lengths.items()
    ]


def _case(
    name: str,
    names: set[str],
    config: XLMConfig,
    token_ids: list[np.ndarray],
    pieces: list[int],
    chunk: int,
    rng: np.random.Generator,
    no_lang: bool,
) -> GenerationCase:
    """Pad on the left; positions count real tokens; languages are drawn for each token."""
    input_ids, mask = pad(token_ids, config.pad_token_id or 0, left=True)
    shape, total = input_ids.shape, input_ids.shape[1]
    arrays = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "langs": rng.integers(NO_LANG if no_lang else 0, config.n_langs, shape),
        "token_type_ids": rng.integers(0, min(2, config.vocab_size), shape),
        "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }
    kept = {key: value for key, value in arrays.items() if key in (names | {"input_ids"})}
    return GenerationCase(name, kept, _fitted(pieces, total), KeyValueCache.create(config, len(mask), chunk=chunk))


def _fitted(pieces: list[int], total: int) -> tuple[int, ...]:
    """The pieces, cut or continued by ones to `total`: models may have fewer positions than a case's steps."""
    ends = [min(end, total) for end in np.cumsum(pieces).tolist()]
    ends += range(ends[-1] + 1, total + 1)
    return tuple(size for size in np.diff([0, *ends]).tolist() if size)


def run_case(
    session: Session, case: GenerationCase, kept: Callable[[np.ndarray], np.ndarray] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The graph's outputs of each piece of a case, each with the keys and values that those before gave.

    Args:
        kept: flat positions of the logits, from a piece's mask; by default `kept_positions`.
    """
    past, start = case.past, 0
    for size in case.pieces:
        end = start + size
        feed = {name: np.ascontiguousarray(value[:, start:end]) for name, value in case.inputs.items()}
        mask = feed["attention_mask"]
        feed["logit_positions"] = (kept or kept_positions)(mask)
        outputs = session.run({**feed, "attention_mask": past.attention_mask(mask), **past.inputs})
        yield outputs
        past, start = past.append(outputs, mask), end


def kept_positions(mask: np.ndarray) -> np.ndarray:
    """Flat positions of the last real tokens of a piece, (batch, new)."""
    return np.flatnonzero(mask)[-MOST_LOGIT_POSITIONS:]
