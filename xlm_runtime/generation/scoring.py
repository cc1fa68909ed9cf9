"""How probable texts are: the log-probability of each token after the first, given those before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xlm_runtime.generation.decoder import CachedDecoder, Logits, Model, Prompt, RecomputingDecoder
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
