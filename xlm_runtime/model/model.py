"""`BundleModel`: a bundle opened for answering, which every pipeline holds: texts to rows, rows to arrays."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import BundleError, EngineError, InputError
from xlm_runtime.model.batching import BatchOptions, Tokenized, join_rows, pad_rows, token_types
from xlm_runtime.model.cache import Cache, KeyValueCache, StaticCache
from xlm_runtime.model.closed import ClosedSession, closed_error
from xlm_runtime.model.ids import check_ids
from xlm_runtime.model.languages import LanguageNumbers
from xlm_runtime.model.packing import PackedSession
from xlm_runtime.processes import PerProcess
from xlm_runtime.sessions import Array, CachingSession, Session, StaticCacheSession, start_run
from xlm_runtime.tokenization import XLMTokenizer

# axes of outputs that the configuration gives the size of
_SIZES = ("vocab_size", "num_labels", "emb_dim", "n_heads", "head_dim")


@dataclass(frozen=True)
class TextItem:
    """One text, or a pair of texts, and the language it is in.

    `words` are those of a text that comes split into them; the text is then they with spaces between.
    """

    text: str
    text_pair: str | None = None
    lang: str | None = None
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TokenSequence:
    """A text, or a pair of texts, as the model reads it.

    `spans` (start, end) and `word_ids` are there when they were asked for: for each token its characters in the text
    and the number of its word, None for the special tokens around the text. `words` are those that the text came as.
    `second` is the place of a pair's second text. `kept` is there in windows of a longer text, see
    `windows.encode_windows`.
    """

    text: str
    text_pair: str | None
    input_ids: list[int]
    lang_id: int
    spans: list[tuple[int, int]] | None = None
    word_ids: list[int | None] | None = None
    words: tuple[str, ...] | None = None
    second: int | None = None
    kept: slice | None = None

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
        languages: the bundle's; another one may be set, for another default.
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
        languages: LanguageNumbers,
        batching: BatchOptions,
        weights_check: PerProcess[Future[None]],
        reopen: Callable[[], BundleModel],
    ) -> None:
        self.bundle = bundle
        self.graph = graph
        self.config = bundle.config
        self.provider = provider
        self.reason = reason
        self.session: Session = session
        self.tokenizer = tokenizer
        self.languages = languages
        self.batching = batching
        self.has_cache = graph.has_cache
        self.has_static_cache = graph.has_static_cache
        self._weights_check = weights_check
        self._reopen = reopen
        self._sizes = [
            (spec.name, place - len(spec.axes), axis, getattr(self.config, axis))
            for spec in graph.outputs
            for place, axis in enumerate(spec.axes)
            if axis in _SIZES
        ]
        self._reads_types = any(spec.name == "token_type_ids" for spec in graph.inputs)
        self._with_choices = any("num_choices" in spec.axes for spec in graph.inputs)
        self._packed = session if isinstance(session, PackedSession) and session.takes_rows else None

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, ()

    def close(self) -> None:
        """Let the session go, and its memory with it. It is over for all who hold this model; twice does no harm."""
        self.session = ClosedSession()
        self._packed = None
        gc.collect()  # engines are held in cycles by what starts them anew

    def check_open(self) -> None:
        """Whether the model can compute.

        Raises:
            EngineError: it was closed.
        """
        if isinstance(self.session, ClosedSession):
            raise closed_error()

    def longest_row(self, max_length: int | None = None) -> int:
        """Most tokens of a row, special ones included.

        Args:
            max_length: as asked for; by default the tokenizer's `model_max_length`, or the model's positions where
                these are fewer.

        Raises:
            InputError: no number of tokens that the model has positions for.
        """
        positions = self.config.max_position_embeddings
        if max_length is None:
            limit = self.tokenizer.model_max_length
            return min(limit, positions) if limit > 0 else positions
        if not isinstance(max_length, int) or isinstance(max_length, bool) or not 3 <= max_length <= positions:
            raise InputError(f"max_length is {max_length!r}; expected a number from 3 to {positions}, the positions.")
        return max_length

    def encode(
        self,
        item: TextItem,
        *,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_offsets: bool = False,
    ) -> TokenSequence:
        """Tokenize a text or pair, with special tokens around it, to a row that the model can read.

        Args:
            truncation: what to do with more tokens than `longest_row`: False refuses them, True cuts the longest text
                first, "only_first" cuts the first text of a pair alone.
            max_length: see `longest_row`.
            return_offsets: also return each token's characters and word.

        Raises:
            InputError: an empty text, an unknown language, or too many tokens.
        """
        limit, positions = self.longest_row(max_length), self.config.max_position_embeddings
        strategy = truncation if isinstance(truncation, str) else "longest_first"
        row = self.tokenize(item, limit if truncation else None, strategy, return_offsets=return_offsets)
        if len(row) > limit:
            name = "the tokenizer's model_max_length" if max_length is None else "max_length"
            found = f"the model has only {limit} positions" if limit == positions else f"{name} is {limit}"
            raise InputError(
                f"The text {_excerpt(item.text)} has {len(row)} tokens, special ones included, but {found}. Split it, "
                "or cut it with truncation=True (--truncation). Token classification and feature extraction can read "
                "it in windows, with stride (--stride)."
            )
        return row

    def tokenize(
        self,
        item: TextItem,
        max_length: int | None = None,
        truncation: str = "longest_first",
        *,
        return_offsets: bool = False,
    ) -> TokenSequence:
        """Tokenize a text or pair, with special tokens around it, however long it is.

        Args:
            max_length: tokens to cut to, None for all of them.
            truncation: see `TextEncoder.row`.
            return_offsets: also return each token's characters and word.

        Raises:
            InputError: an empty text, or an unknown language.
        """
        for text in (item.text, item.text_pair):
            if text is not None and not text.strip():
                raise InputError("The text is empty; give at least one word.")
        lang_id = self.languages.number(item.lang)
        row = self.tokenizer.encoder.row(
            item.text if item.words is None else item.words,
            item.text_pair,
            lang=item.lang,
            max_length=max_length,
            truncation=truncation,
            return_offsets=return_offsets,
        )
        if len(row.ids) == self.tokenizer.vocabulary.num_special_tokens_to_add(item.text_pair is not None):
            raise InputError(f"The text {_excerpt(item.text)} has no words: nothing of it is left to tokenize.")
        spans = row.spans
        if item.words is not None and spans is not None:  # from places in words to places in the text
            starts = [0, *accumulate(len(word) + 1 for word in item.words)]
            spans = [
                span if word is None else (span[0] + starts[word], span[1] + starts[word])
                for span, word in zip(spans, row.words or [], strict=True)
            ]
        return TokenSequence(item.text, item.text_pair, row.ids, lang_id, spans, row.words, item.words, row.second)

    def run(self, batch: Sequence[Tokenized], extra: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """The graph's outputs for a batch of sequences, padded to the longest; floating-point ones in float32.

        See `start`, which begins it.
        """
        return self.start(batch, extra)()

    def start(
        self, batch: Sequence[Tokenized], extra: Mapping[str, Array] | None = None
    ) -> Callable[[], dict[str, Array]]:
        """Begin to compute a batch of sequences, padded to the longest.

        A packed graph computes no padding, but takes and gives the same arrays here.

        Multiple-choice graphs get each sequence as the one choice of a row.

        Args:
            extra: the graph's further inputs, such as `logit_positions`, and inputs in place of the usual ones.

        Returns:
            What waits for the graph's outputs, floating-point ones in float32. On a GPU the host is free until then.

        Raises:
            BundleError: the weights' file has changed since the export.
            EngineError: the engine failed, here or where the outputs are waited for.
        """
        packed = self._packed
        if packed is not None and not extra and all(map(len, batch)):
            wait = self._start_rows(packed, batch)
        else:
            wait = self._feed(self._padded(batch, extra))
        return lambda: {
            name: value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value
            for name, value in wait().items()
        }

    def _start_rows(self, session: PackedSession, batch: Sequence[Tokenized]) -> Callable[[], dict[str, Array]]:
        rows, langs = [row.input_ids for row in batch], [row.lang_id for row in batch]
        input_ids = join_rows(rows)
        self._check(
            {"input_ids": input_ids, "langs": np.array(langs)} if self.languages.read else {"input_ids": input_ids}
        )
        wait = session.start_rows(input_ids, [len(row) for row in rows], langs)
        return lambda: self._checked(wait())

    def _padded(self, batch: Sequence[Tokenized], extra: Mapping[str, Array] | None) -> dict[str, Array]:
        pad_id = self.tokenizer.vocabulary.special_id("pad_token")
        arrays: dict[str, Array] = dict(pad_rows(batch, 0 if pad_id is None else pad_id))
        if not self.languages.read:
            del arrays["langs"]
        if self._reads_types:
            arrays["token_type_ids"] = token_types([row.second for row in batch], arrays["input_ids"].shape[1])
        if self._with_choices:
            arrays = {name: array[:, None, :] for name, array in arrays.items()}
        return {**arrays, **(extra or {})}

    def check_weights(self) -> None:
        """Wait until the weights' hash is known.

        Raises:
            BundleError: the weights' file has changed since the export.
        """
        self._weights_check.get().result()

    def feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs as the session gives them, for all of its inputs.

        Raises:
            InputError: ids that the model has no embedding for.
            BundleError: the weights' file has changed since the export, or its outputs have other sizes than
                `config.json` says.
            EngineError: the engine failed.
        """
        return self._feed(inputs)()

    def _feed(self, inputs: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        self._check(inputs)
        wait = start_run(self.session, inputs)
        return lambda: self._checked(wait())

    def _checked(self, outputs: dict[str, Array]) -> dict[str, Array]:
        """The outputs, if they have the sizes that config.json says.

        Raises:
            BundleError: they do not.
        """
        for name, place, axis, size in self._sizes:
            shape = outputs[name].shape
            if not -len(shape) <= place or shape[place] != size:
                raise BundleError(
                    f"The graph '{self.graph.file}' of the bundle '{self.bundle.folder}' gives {name} of the shape "
                    f"{tuple(shape)}, and config.json has {axis} {size}; export it again."
                )
        return outputs

    def greedy(self, inputs: Mapping[str, Array], max_length: int, steps: int) -> Generator[Array, None, None]:
        """See `StaticCacheSession.greedy`.

        Raises:
            InputError, BundleError, EngineError: as `feed`.
        """
        self._check(inputs)
        return self._static_session().greedy(inputs, max_length, steps)

    def create_static_cache(self, rows: int, max_length: int | None = None) -> StaticCache:
        """The memory of a static cache for `rows` sequences.

        Args:
            max_length: most tokens of a row; by default the model's positions.

        Raises:
            EngineError: the session has none.
            OutOfMemoryError: the device has too little memory.
        """
        most = self.config.max_position_embeddings if max_length is None else max_length
        cache: StaticCache = self._static_session().create_static_cache(rows, most)
        return cache

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

    def _check(self, inputs: Mapping[str, Array]) -> None:
        check_ids(inputs, self.config, self.tokenizer.vocabulary.token)
        self.check_weights()

    def _static_session(self) -> StaticCacheSession:
        if not isinstance(self.session, StaticCacheSession):
            raise EngineError(
                f"The graph '{self.graph.file}' writes keys and values in place on a GPU, which provider="
                f"'{self.provider}' does not; use provider='cuda', or another of the bundle's graphs."
            )
        return self.session


def _excerpt(text: str, most: int = 40) -> str:
    return f"'{text[:most]}…'" if len(text) > most else f"'{text}'"
