"""Vectors of texts: one a token, or one a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm_runtime.model.model import TokenSequence
from xlm_runtime.model.windows import check_stride, encode_windows, join_outputs
from xlm_runtime.numerics import FloatArray
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, TextInputs, check_choice, read_text

POOLINGS = ("none", "mean", "first")


@dataclass(frozen=True)
class FeatureExtractionOptions:
    """See `FeatureExtractionPipeline.__call__`."""

    pooling: str = "none"
    normalize: bool = False
    truncation: bool = False
    max_length: int | None = None
    stride: int | None = None

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
        max_length: int | None = None,
        stride: int | None = None,
        on_error: str = "raise",
    ) -> Answers[FloatArray]:
        """Float32 vectors: one text → an array, a list → a list, another iterable → a lazy iterator, in order.

        Args:
            inputs: texts, or dictionaries with "text" and "lang".
            lang: language of all texts, or a list with one for each.
            pooling: "none" gives (sequence, emb_dim), special tokens included; "mean" of all tokens and "first"
                token give (emb_dim,).
            normalize: scale each vector to length 1.
            truncation: cut texts that are longer than `max_length`, instead of refusing them.
            max_length: most tokens of a row; by default the tokenizer's `model_max_length`, or the model's positions.
            stride: read longer texts in windows of `max_length` that share so many tokens. Each token has its vector
                from the window that shows most on both sides of it.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: empty or too long texts, an unknown language or pooling.
        """
        options = FeatureExtractionOptions(pooling, normalize, truncation, max_length, stride)
        return self.answer(inputs, lang=lang, on_error=on_error, options=options)

    def check(self, lang: Languages, options: FeatureExtractionOptions) -> None:
        check_stride(self.model, options.stride, options.truncation, options.max_length)

    def preprocess(self, item: Any, lang: str | None, options: FeatureExtractionOptions) -> list[TokenSequence]:
        text = read_text(item, lang)
        if options.stride is not None:
            return encode_windows(self.model, text, stride=options.stride, max_length=options.max_length)
        return [self.model.encode(text, truncation=options.truncation, max_length=options.max_length)]

    def forward(self, batch: list[TokenSequence], options: FeatureExtractionOptions) -> Callable[[], list[FloatArray]]:
        wait = self.model.start(batch)
        return lambda: [hidden[: len(row)] for row, hidden in zip(batch, wait()["last_hidden_state"], strict=True)]

    def postprocess(
        self, rows: Sequence[TokenSequence], outputs: Sequence[FloatArray], options: FeatureExtractionOptions
    ) -> FloatArray:
        return _pool(join_outputs(rows, outputs), options.pooling, options.normalize)


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
