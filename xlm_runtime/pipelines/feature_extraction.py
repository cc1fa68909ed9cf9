"""Vectors of texts: one a token, or one a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xlm_runtime.model.model import BundleModel, TextItem, TokenSequence
from xlm_runtime.numerics import FloatArray, check_choice
from xlm_runtime.pipelines.base import Languages, TextInputs, read_text, respond

POOLINGS = ("none", "mean", "first")


class FeatureExtractionPipeline:
    """The last layer's hidden states."""

    def __init__(self, model: BundleModel) -> None:
        self.model = model

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
        check_choice("pooling", pooling, POOLINGS)

        def read(batch: list[TokenSequence]) -> Sequence[FloatArray]:
            hidden = self.model.run(batch)["last_hidden_state"]
            return [_pool(hidden[i, : len(row)], pooling, normalize) for i, row in enumerate(batch)]

        def answer(items: Iterator[TextItem]) -> Iterator[FloatArray]:
            return self.model.answer_each((self.model.encode(item, truncation=truncation) for item in items), read)

        return respond(inputs, lang, read_text, answer)


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
