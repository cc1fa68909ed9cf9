"""What runs a step of a generation: with a cache, or the whole sequence again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.config import XLMConfig
from xlm_runtime.model.batching import Tokenized
from xlm_runtime.model.cache import Cache
from xlm_runtime.numerics import pad
from xlm_runtime.sessions import Array

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Prompt:
    """Where a generation begins: ids, the number of their language, and token sequences that are not to come."""

    input_ids: list[int]
    lang_id: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)


class Model(Protocol):
    """What decoders need of an opened bundle."""

    config: XLMConfig

    def feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs for its inputs."""
        ...

    def create_cache(self, rows: int, max_length: int | None = None) -> Cache:
        """A cache of no tokens for `rows` sequences, where the model computes."""
        ...

    def run(self, batch: Sequence[Tokenized], extra: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The graph's outputs for a batch of sequences."""
        ...


class Decoder(Protocol):
    """A batch of sequences that grow."""

    def start(self, prompts: Sequence[Prompt]) -> Logits:
        """Begin with one row for each prompt; (rows, vocab_size), the scores of each row's next token."""
        ...

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Logits:
        """Make row i what row `parents[i]` was, and append `tokens[i]` to it; (rows, vocab_size)."""
        ...


class CachedDecoder:
    """Runs only the new tokens. Rows of unequal length are padded on the left, so that all grow at the same place.

    Args:
        max_length: most tokens of a row, padding included; by default the model's positions.
    """

    def __init__(self, model: Model, max_length: int | None = None) -> None:
        self._model = model
        self._max_length = max_length
        self._cache: Cache = model.create_cache(0)
        self._langs: Array = np.zeros((0, 1), np.int64)

    @property
    def cache(self) -> Cache:
        return self._cache

    def start(self, prompts: Sequence[Prompt]) -> Logits:
        input_ids, mask = pad([prompt.input_ids for prompt in prompts], self._model.config.pad_token_id or 0, left=True)
        rows, longest = input_ids.shape
        self.begin(prompts)
        return self.extend(input_ids, mask, np.arange(1, rows + 1) * longest - 1)

    def begin(self, prompts: Sequence[Prompt]) -> None:
        """An empty cache with one row for each prompt, in its language."""
        self._langs = np.array([[prompt.lang_id] for prompt in prompts], np.int64)
        self._cache = self._model.create_cache(len(prompts), self._max_length)

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Logits:
        if list(parents) != list(range(self._cache.rows)):
            self._cache = self._cache.reorder(parents).without_padding()
            self._langs = self._langs[np.asarray(parents)]
        input_ids = np.asarray(tokens, np.int64)[:, None]
        return self.extend(input_ids, np.ones_like(input_ids), np.arange(len(tokens)))

    def extend(self, input_ids: Array, mask: Array, logit_positions: Array) -> Logits:
        """Append (rows, new) tokens, of which `mask` says which are real; scores at the flat `logit_positions`."""
        past = self._cache
        positions = past.mask.sum(axis=1, keepdims=True) + np.cumsum(mask, axis=1) - 1
        feed = {
            "input_ids": input_ids,
            "attention_mask": past.attention_mask(mask),
            "position_ids": np.maximum(positions, 0),
            "logit_positions": logit_positions,
            **past.inputs,
        }
        if self._model.config.uses_langs:
            feed["langs"] = np.repeat(self._langs, input_ids.shape[1], axis=1)
        outputs = self._model.feed(feed)
        self._cache = past.append(outputs, mask)
        return outputs["logits"].astype(np.float32, copy=False)


@dataclass
class _Row:
    """A sequence so far; `input_ids` is what the model reads."""

    ids: list[int]
    lang_id: int
    tail: list[int]

    second: None = None

    @property
    def input_ids(self) -> list[int]:
        return self.ids + self.tail

    def __len__(self) -> int:
        return len(self.ids) + len(self.tail)


@dataclass
class RecomputingDecoder:
    """Runs whole sequences for each token.

    Args:
        mask_token_id: stands where the next token is to come, as bidirectional models want it (Hugging Face's
            `prepare_inputs_for_generation`); None for causal models, which predict behind the last token.
    """

    model: Model
    mask_token_id: int | None
    _rows: list[_Row] = field(default_factory=list)

    def start(self, prompts: Sequence[Prompt]) -> Logits:
        tail = [] if self.mask_token_id is None else [self.mask_token_id]
        self._rows = [_Row(list(prompt.input_ids), prompt.lang_id, tail) for prompt in prompts]
        return self._run()

    def step(self, parents: Sequence[int], tokens: Sequence[int]) -> Logits:
        rows = [self._rows[parent] for parent in parents]
        self._rows = [_Row([*row.ids, token], row.lang_id, row.tail) for row, token in zip(rows, tokens, strict=True)]
        return self._run()

    def _run(self) -> Logits:
        longest = max(map(len, self._rows))
        at = np.array([i * longest + len(row) - 1 for i, row in enumerate(self._rows)], np.int64)
        logits: Logits = self.model.run(self._rows, {"logit_positions": at})["logits"]
        return logits
