"""How probable texts are: the log-probability of each token after the first, given those before it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xlm_runtime.generation.decoder import CachedDecoder, Logits, Model, Prompt, RecomputingDecoder
from xlm_runtime.generation.static_decoder import StaticDecoder, StaticModel
from xlm_runtime.model.batching import plan_batches
from xlm_runtime.numerics import log_softmax, pad

# Rows of logits at once: 256 × 95,000 words take 97 MB.
MOST_LOGITS = 256


def score_cached(model: Model, prompts: Sequence[Prompt]) -> list[list[float]]:
    """With a cache, in pieces of a bounded number of logits; for each prompt its `len - 1` log-probabilities."""
    ids, mask = pad([prompt.input_ids for prompt in prompts], model.config.pad_token_id or 0, left=True)
    rows, longest = ids.shape
    decoder = CachedDecoder(model)
    decoder.begin(prompts)
    found: list[list[float]] = [[] for _ in prompts]
    piece = max(1, MOST_LOGITS // rows)
    for start in range(0, longest - 1, piece):
        stop = min(start + piece, longest - 1)
        real = np.flatnonzero(mask[:, start:stop])
        logits = decoder.extend(ids[:, start:stop], mask[:, start:stop], real)
        at, step = np.divmod(real, stop - start)
        for row, value in zip(at, _chosen(logits, ids[at, step + start + 1]), strict=True):
            found[row].append(float(value))
    return found


def score_static(model: StaticModel, prompts: Sequence[Prompt]) -> list[list[float]]:
    """With a static cache, as prompts of which every token but the last is scored, a bounded number of logits at once;
    for each prompt its `len - 1` log-probabilities."""
    decoder = StaticDecoder(model)
    found: list[list[float]] = []
    for start, stop in _parts([len(prompt) - 1 for prompt in prompts]):
        rows = prompts[start:stop]
        feed = decoder.begin(rows)
        ids, mask = pad([prompt.input_ids for prompt in rows], 0)
        mask[:, :-1] &= mask[:, 1:]
        mask[:, -1] = 0
        real = np.flatnonzero(mask)  # where a token follows
        values = np.zeros(0, np.float32)
        for places in np.array_split(real, range(MOST_LOGITS, len(real), MOST_LOGITS)):
            # each time as a new prompt, which writes the same keys and values again
            cache = model.create_static_cache(len(rows), ids.shape[1])
            outputs = model.feed({**feed, **cache.inputs, "logit_positions": places})
            logits = outputs["logits"].astype(np.float32, copy=False)
            values = np.concatenate((values, _chosen(logits, ids.reshape(-1)[places + 1])))
        ends = np.cumsum([len(prompt) - 1 for prompt in rows])
        found += [part.tolist() for part in np.split(values, ends[:-1])]
    return found


def _parts(counts: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Neighbours of at most `MOST_LOGITS` in all, or one of more."""
    start = total = 0
    for i, count in enumerate(counts):
        if i > start and total + count > MOST_LOGITS:
            yield start, i
            start, total = i, 0
        total += count
    if counts:
        yield start, len(counts)


def score_recomputed(
    model: Model, prompts: Sequence[Prompt], mask_token_id: int | None, max_tokens: int
) -> list[list[float]]:
    """Without a cache, each token from the sequence before it, as generation computes it.

    Args:
        mask_token_id: see `RecomputingDecoder`.
        max_tokens: budget of one batch, rows × longest row.
    """
    prefixes = [Prompt(prompt.input_ids[:end], prompt.lang_id) for prompt in prompts for end in range(1, len(prompt))]
    following = [token for prompt in prompts for token in prompt.input_ids[1:]]
    values = np.zeros(len(prefixes), np.float32)
    for batch in plan_batches([len(prefix) + 1 for prefix in prefixes], max_tokens):
        logits = RecomputingDecoder(model, mask_token_id).start([prefixes[i] for i in batch])
        values[batch] = _chosen(logits, np.array([following[i] for i in batch]))
    ends = np.cumsum([len(prompt) - 1 for prompt in prompts])
    return [part.tolist() for part in np.split(values, ends[:-1])]


def _chosen(logits: Logits, tokens: np.ndarray) -> Logits:
    """(rows,) log-probabilities of one token of each row."""
    chosen: Logits = log_softmax(logits)[np.arange(len(tokens)), tokens]
    return chosen
