"""Whether ids have embeddings: engines refuse others in words of their own, and some answer wrongly without any."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.sessions import Array

# a graph's input → the option that says how many embeddings there are, and its least id
_LIMITS = {"input_ids": ("vocab_size", 0), "langs": ("n_langs", -1)}  # -1: no language


def check_ids(inputs: Mapping[str, Array], config: XLMConfig, token: Callable[[int], str]) -> None:
    """Look at what a graph is to be fed; a few microseconds a call.

    Args:
        token: a token's name by its id.

    Raises:
        InputError: an id that the model has no embedding for.
    """
    for name, (option, least) in _LIMITS.items():
        if name not in inputs or not inputs[name].size:
            continue
        ids, limit = inputs[name].astype(np.int64, copy=False), getattr(config, option)
        from_zero = ids - least if least else ids
        if from_zero.view(np.uint64).max() < limit - least:  # negative numbers are large ones then
            continue
        wrong = ids[(ids < least) | (ids >= limit)]
        if wrong.size:
            what = f" ('{token(int(wrong[0]))}')" if name == "input_ids" else ""
            raise InputError(
                f"{name} holds {wrong[0]}{what}, but {option} is {limit}: the model has embeddings 0 to {limit - 1}. "
                "The tokenizer's files are not those of the model; export the checkpoint with its own."
            )
