"""Vectors of texts: one a token, or one a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm_runtime.model.model import TokenSequence
from xlm_runtime.numerics import FloatArray
from xlm_runtime.pipelines.base import Languages, Pipeline, TextInputs, check_choice, read_text

POOLINGS = ("none", "mean", "first")


@dataclass(frozen=True)
class FeatureExtractionOptions:
    """See `FeatureExtractionPipeline.__call__`."""

    pooling: str = "none"
    normalize: bool = False
    truncation: bool = False

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, POOLINGS)


class FeatureExtractionPipeline(Pipeline[FeatureExtractionOptions, TokenSequence, FloatArray, FloatArray]):
    """The last layer's hidden states."""

    def __call__(
        self,
        inputs: TextInputs,
        *,
        lang: Languages = None,
        pooling: str = "none",
        normalize: bool = False,
        truncation: bool = False,
    ) -> FloatArray | list[FloatArray] | Iterator[FloatArray]:
        """Float32 vectors: one text → an array, a list → a list, another iterable → a lazy iterator, in order.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            lang: language of all texts, or a list with one for each.
            pooling: "none" gives (sequence, emb_dim), special tokens included; "mean" of all tokens and "first"
                token give (emb_dim,).
            normalize: scale each vector to length 1.
            truncation: cut texts that are longer than the model's positions, instead of refusing them.

        Raises:
            InputError: empty or too long texts, an unknown language or pooling.
        """
        return self.answer(inputs, lang=lang, options=FeatureExtractionOptions(pooling, normalize, truncation))

    def preprocess(self, item: Any, lang: str | None, options: FeatureExtractionOptions) -> list[TokenSequence]:
        return [self.model.encode(read_text(item, lang), truncation=options.truncation)]

    def forward(self, batch: list[TokenSequence], options: FeatureExtractionOptions) -> list[FloatArray]:
        hidden = self.model.run(batch)["last_hidden_state"]
        return [hidden[i, : len(row)] for i, row in enumerate(batch)]

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[FloatArray], options: FeatureExtractionOptions
    ) -> FloatArray:
        return _pool(outputs[0], options.pooling, options.normalize)


def _pool(hidden: FloatArray, pooling: str, normalize: bool) -> FloatArray:
    """(sequence, emb_dim) → the same or (emb_dim,); a copy, so that the batch it came from can go."""
    pooled: FloatArray = {
        "none": lambda: hidden.copy(),
        "mean": lambda: hidden.mean(axis=0, dtype=np.float32),
        "first": lambda: hidden[0].copy(),
    }[pooling]()
    if normalize:
        pooled /= np.maximum(np.linalg.norm(pooled, axis=-1, keepdims=True), np.float32(1e-12))
    return pooled
