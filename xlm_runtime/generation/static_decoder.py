"""What runs the steps of a generation whose keys and values stay in place on a device."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Protocol

import numpy as np

from xlm_runtime.config import XLMConfig
from xlm_runtime.generation.decoder import Logits, Prompt
from xlm_runtime.model.cache import StaticCache
from xlm_runtime.numerics import broadcast_rows, pad
from xlm_runtime.sessions import Array
from xlm_runtime.tasks import SEQLENS_K


class StaticModel(Protocol):
    """What the decoder needs of an opened bundle."""

    config: XLMConfig

    def feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs for its inputs."""
        ...

    def create_static_cache(self, rows: int, max_length: int | None = None) -> StaticCache:
        """The memory of a static cache for `rows` sequences, where the model computes."""
        ...

    def greedy(self, inputs: Mapping[str, Array], max_length: int, steps: int) -> Generator[Array, None, None]:
        """(rows,) best tokens, step by step, see `StaticCacheSession.greedy`."""
        ...


class StaticDecoder:
    """`Decoder` of a graph with a static cache. Rows of unequal length are padded on the right, and each grows at its
    own place.

    Args:
        max_length: most tokens of a row, which there is room for from the start; by default the model's positions.
    """

    def __init__(self, model: StaticModel, max_length: int | None = None) -> None:
        self._model = model
        self._max_length = model.config.max_position_embeddings if max_length is None else max_length
        self._langs: list[int] = []
        self._cache: StaticCache | None = None

    def start(self, prompts: Sequence[Prompt]) -> Logits:
        lengths = np.array([len(prompt) for prompt in prompts], np.int64)
        self._cache = self._model.create_static_cache(len(prompts), self._max_length).grown(lengths)
        outputs = self._model.feed({**self.begin(prompts), **self._cache.inputs})
        return outputs["logits"].astype(np.float32, copy=False)

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Logits:
        if self._cache is None:
            raise RuntimeError("A step comes behind a start.")
        before = self._cache.reorder(parents)
        self._langs = [self._langs[parent] for parent in parents]
        self._cache = before.grown(np.ones(len(tokens), np.int64))
        feed = self._feed(np.asarray(tokens, np.int64)[:, None], before.lengths[:, None], self._cache.lengths)
        feed["logit_positions"] = np.arange(len(tokens))
        outputs = self._model.feed({**feed, **self._cache.inputs})
        return outputs["logits"].astype(np.float32, copy=False)

    def greedy(self, prompts: Sequence[Prompt], steps: int) -> Generator[list[int], None, None]:
        """Each row's best next token, `steps` times, each from the ones before it; closing the generator ends it."""
        with closing(self._model.greedy(self.begin(prompts), self._max_length, steps)) as following:
            for tokens in following:
                yield tokens.tolist()

    def begin(self, prompts: Sequence[Prompt]) -> dict[str, Array]:
        """The graph's inputs for one row for each prompt, but for keys and values; logits at each one's last token."""
        input_ids, mask = pad([prompt.input_ids for prompt in prompts], self._model.config.pad_token_id or 0)
        rows, longest = input_ids.shape
        lengths = mask.sum(axis=1)
        self._langs = [prompt.lang_id for prompt in prompts]
        feed = self._feed(input_ids, np.tile(np.arange(longest), (rows, 1)), lengths)
        feed["logit_positions"] = np.arange(rows) * longest + lengths - 1
        return feed

    def _feed(self, input_ids: Array, position_ids: Array, lengths: Array) -> dict[str, Array]:
        feed = {"input_ids": input_ids, "position_ids": position_ids, SEQLENS_K: (lengths - 1).astype(np.int32)}
        if self._model.config.uses_langs:
            feed["langs"] = broadcast_rows(self._langs, input_ids.shape[1])
        return feed
