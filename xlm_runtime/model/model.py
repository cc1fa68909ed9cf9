"""`BundleModel`: a bundle opened for answering, which every pipeline holds: texts to rows, rows to arrays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.model.batching import BatchOptions, Tokenized, pad_rows
from xlm_runtime.model.cache import Cache, KeyValueCache
from xlm_runtime.processes import PerProcess
from xlm_runtime.sessions import Array, CachingSession, Session
from xlm_runtime.tokenization import XLMTokenizer

# axes of outputs that the configuration gives the size of
_SIZES = ("vocab_size", "num_labels", "emb_dim", "n_heads", "head_dim")


@dataclass(frozen=True)
class TextItem:
    """One text, or a pair of texts, and the language it is in."""

    text: str
    text_pair: str | None = None
    lang: str | None = None


@dataclass(frozen=True)
class TokenSequence:
    """A text, or a pair of texts, as the model reads it.

    `spans` (start, end) and `word_ids` are there when they were asked for: for each token its characters in the text
    and the number of its word, None for the special tokens around the text.
    """

    text: str
    text_pair: str | None
    input_ids: list[int]
    lang_id: int
    spans: list[tuple[int, int]] | None = None
    word_ids: list[int | None] | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


class BundleModel:
    """What `opening.open_model` opened.

    Args:
        bundle, graph: the bundle, and which of its graphs.
        provider: where the session computes.
        reason: a sentence that says why this graph and provider.
        session: takes the padded graph's inputs and gives its outputs, whatever the graph's layout.
        tokenizer: the bundle's.
        batching: how batches are formed unless a pipeline forms its own.
        weights_check: ends with a BundleError where the weights' files are not those of the export.
        reopen: opens it anew. A model that is pickled is opened in the other process with the same arguments.
    """

    def __init__(
        self,
        bundle: Bundle,
        graph: Graph,
        *,
        provider: str,
        reason: str,
        session: Session,
        tokenizer: XLMTokenizer,
        batching: BatchOptions,
        weights_check: PerProcess[Future[None]],
        reopen: Callable[[], BundleModel],
    ) -> None:
        self.bundle = bundle
        self.graph = graph
        self.config = bundle.config
        self.provider = provider
        self.reason = reason
        self.session = session
        self.tokenizer = tokenizer
        self.batching = batching
        self.has_cache = graph.has_cache
        self._weights_check = weights_check
        self._reopen = reopen
        self._sizes = [
            (spec.name, place - len(spec.axes), axis, getattr(self.config, axis))
            for spec in graph.outputs
            for place, axis in enumerate(spec.axes)
            if axis in _SIZES
        ]
        self._uses_langs = self.config.uses_langs
        self._with_choices = any("num_choices" in spec.axes for spec in graph.inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, ()

    def encode(self, item: TextItem, *, truncation: bool | str = False, return_offsets: bool = False) -> TokenSequence:
        """Tokenize a text or pair, with special tokens around it.

        Args:
            truncation: what to do with more tokens than the model has positions: False refuses them, True cuts the
                longest text first, "only_first" cuts the first text of a pair alone.
            return_offsets: also return each token's characters and word.

        Raises:
            InputError: an empty text, an unknown language, or too many tokens.
        """
        for text in (item.text, item.text_pair):
            if text is not None and not text.strip():
                raise InputError("The text is empty; give at least one word.")
        lang_id = self.lang_id(item.lang)
        limit = self.config.max_position_embeddings
        row = self.tokenizer.encoder.row(
            item.text,
            item.text_pair,
            lang=item.lang,
            max_length=limit if truncation else None,
            truncation=truncation if isinstance(truncation, str) else "longest_first",
            return_offsets=return_offsets,
        )
        if len(row.ids) == self.tokenizer.vocabulary.num_special_tokens_to_add(item.text_pair is not None):
            raise InputError(f"The text {_excerpt(item.text)} has no words: nothing of it is left to tokenize.")
        if len(row.ids) > limit:
            raise InputError(
                f"The text {_excerpt(item.text)} has {len(row.ids)} tokens, special ones included, but the model has "
                f"only {limit} positions. Split it, or cut it with truncation=True (--truncation)."
            )
        return TokenSequence(item.text, item.text_pair, row.ids, lang_id, row.spans, row.words)

    def run(self, batch: Sequence[Tokenized], extra: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The graph's outputs for a batch of sequences, padded to the longest; floating-point ones in float32.

        A packed graph computes no padding, but takes and gives the same arrays here.

        Multiple-choice graphs get each sequence as the one choice of a row.

        Args:
            extra: the graph's further inputs, such as `logit_positions`, and inputs in place of the usual ones.

        Raises:
            BundleError: the weights' file has changed since the export.
            EngineError: the engine failed.
        """
        pad_id = self.tokenizer.vocabulary.special_id("pad_token")
        arrays: dict[str, Array] = dict(pad_rows(batch, 0 if pad_id is None else pad_id))
        if not self._uses_langs:
            del arrays["langs"]
        if self._with_choices:
            arrays = {name: array[:, None, :] for name, array in arrays.items()}
        outputs = self.feed({**arrays, **(extra or {})})
        return {
            name: value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
            for name, value in outputs.items()
        }

    def check_weights(self) -> None:
        """Wait until the weights' hash is known.

        Raises:
            BundleError: the weights' file has changed since the export.
        """
        self._weights_check.get().result()

    def feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs as the session gives them, for all of its inputs.

        Raises:
            BundleError: the weights' file has changed since the export, or its outputs have other sizes than
                `config.json` says.
            EngineError: the engine failed.
        """
        self.check_weights()
        outputs = self.session.run(inputs)
        for name, place, axis, size in self._sizes:
            shape = outputs[name].shape
            if not -len(shape) <= place or shape[place] != size:
                raise BundleError(
                    f"The graph '{self.graph.file}' of the bundle '{self.bundle.folder}' gives {name} of the shape "
                    f"{tuple(shape)}, and config.json has {axis} {size}; export it again."
                )
        return outputs

    def create_cache(self, rows: int, max_length: int | None = None) -> Cache:
        """A cache of no tokens for `rows` sequences, on the device where the session computes on one.

        Args:
            max_length: most tokens of a row, padding included; by default the model's positions.
        """
        if isinstance(self.session, CachingSession):
            most = self.config.max_position_embeddings if max_length is None else max_length
            cache: Cache = self.session.create_cache(rows, most)
            return cache
        return KeyValueCache.create(self.config, rows, max_length)

    def max_rows(self, prompt: int, length: int) -> int | None:
        """Most rows that a cache takes of prompts of `prompt` tokens, which grow to `length`; None for any number."""
        return self.session.max_rows(prompt, length) if isinstance(self.session, CachingSession) else None

    def lang_id(self, lang: str | None) -> int:
        """The number of a language, the configuration's default for None.

        Raises:
            InputError: a language that the bundle does not know.
        """
        if lang is None:
            return self.config.lang_id or 0
        lang2id = self.tokenizer.lang2id or self.config.lang2id
        if lang2id is None:
            if self.config.uses_langs:
                raise InputError(
                    f"lang='{lang}' was given, but the bundle has no lang2id that says which number it is."
                )
            return 0
        if lang not in lang2id:
            raise InputError(f"Unknown lang '{lang}'; this bundle knows {', '.join(sorted(lang2id))}.")
        return lang2id[lang]


def _excerpt(text: str, most: int = 40) -> str:
    return f"'{text[:most]}…'" if len(text) > most else f"'{text}'"
