"""`BundleModel`: a bundle opened for answering, which every pipeline holds: tokenizer, session and batching."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import BundleError, EngineError, InputError
from xlm_runtime.model.batching import BatchOptions, Sized, Tokenized, answer_groups, pad_rows
from xlm_runtime.model.cache import Cache, KeyValueCache
from xlm_runtime.model.choose import AUTO, check_graph, choose, choose_graph
from xlm_runtime.model.packing import Multiples, PackedSession
from xlm_runtime.sessions import (
    BUILDING_PROVIDERS,
    GPU_PROVIDERS,
    PROVIDERS,
    Array,
    CachingSession,
    GpuOptions,
    Session,
    open_session,
)
from xlm_runtime.tokenization import XLMTokenizer

R = TypeVar("R", bound=Sized)
T = TypeVar("T")

# Tokens of one batch. Two CPU cores are busy with few tokens: 134 sequences of 8 to 128 tokens took 1.25 s one by
# one, 1.04 s in batches of 512 tokens, 1.13 s of 2048. A GPU needs more to be busy.
_MAX_TOKENS = {"cpu": 512, "openvino": 512, "cuda": 8192, "tensorrt": 8192, "tensorrt-ep": 8192}
# The same for packed batches, where it differs: 134 sequences took 3.52 s in place of 3.64.
_MAX_PACKED_TOKENS = {"openvino": 1024}
# OpenVINO makes and keeps kernels for every new shape. Packed batches of like size share theirs: groups of 2 to 8
# sequences took 4.1 s in place of 5.2, and the process grew to 0.7 GB in place of 1.7 (benchmarks/NOTES.md).
_MULTIPLES = {"openvino": Multiples(tokens=32, longest=16)}


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
    """Opens a bundle: checks its files, loads its tokenizer and starts its session.

    The weights' hash is computed while the engine loads them, and known before the first answer.

    Args:
        folder: the bundle.
        task: the task the bundle must have been exported for.
        provider: see `open_session`; "auto" takes what `choice.choose` finds.
        threads, gpu, engine_cache: see `open_session`; with "auto" those that the chosen provider has count.
        precision: which of the bundle's graphs; by default its first.
        graph: the file of the graph, in place of `precision`; not with "auto".
        max_tokens: budget of one batch, see `plan_batches`; by default one that suits the provider.

    `provider` is the provider that was opened, and `reason` a sentence that says why.

    Raises:
        BundleError: missing, changed or newer files, a failed verification.
        InputError: a bundle for another task, or an unknown provider or precision.
        MissingExtraError, EngineError: see `open_session`.
    """

    def __init__(
        self,
        folder: str | Path,
        task: str,
        *,
        provider: str = "cpu",
        threads: int | None = None,
        precision: str | None = None,
        max_tokens: int | None = None,
        gpu: GpuOptions | None = None,
        engine_cache: str | Path | None = None,
        graph: str | None = None,
    ) -> None:
        if provider not in (*PROVIDERS, AUTO):
            raise InputError(f"Unknown provider '{provider}'; expected one of {', '.join((*PROVIDERS, AUTO))}.")
        self.bundle = Bundle.load(folder)
        if self.bundle.task != task:
            raise InputError(
                f"The bundle '{folder}' was exported for the task {self.bundle.task} ({self.bundle.architecture}), "
                f"not for {task}. Use pipeline('{self.bundle.task}', ...), or export the checkpoint with --task {task}."
            )
        self.config = self.bundle.config
        if provider == AUTO:
            chosen = choose(self.bundle, precision, threads, gpu)
            provider, self.graph, self.reason = chosen.provider, chosen.graph, chosen.reason
            gpu = gpu if provider in GPU_PROVIDERS else None
            engine_cache = engine_cache if provider in BUILDING_PROVIDERS else None
        else:
            self.reason = f"provider='{provider}' was asked for."
            bundle = self.bundle
            self.graph = bundle.graph_of_file(graph) if graph else choose_graph(bundle, precision, provider, gpu)
        self.provider = provider
        packed = self.graph.is_packed
        budget = _MAX_TOKENS | (_MAX_PACKED_TOKENS if packed else {})
        self.batching = BatchOptions(budget[provider] if max_tokens is None else max_tokens, packed=packed)
        check_graph(self.graph, self.bundle)
        # an engine holds its weights itself, and its stamp the hash
        weights = [] if provider == "tensorrt" else self.bundle.files_of(self.graph)
        of_other_graphs = {name for graph in self.bundle.graphs for name in self.bundle.files_of(graph)}
        self.bundle.check_files([name for name in self.bundle.files if name not in of_other_graphs])
        for name in weights:
            if not (self.bundle.folder / name).is_file():
                raise BundleError(f"File '{name}' not found in path '{folder}'; copy the whole bundle again.")
        # The engine reads the weights without holding Python's lock. Beside it one thread, not to take the cores from
        # it, loads the tokenizer and hashes the weights.
        beside = ThreadPoolExecutor(1, thread_name_prefix="xlm-open")
        tokenizer = beside.submit(XLMTokenizer.from_pretrained, self.bundle.folder)
        self._weights_check = beside.submit(self.bundle.check_files, weights)
        beside.shutdown(wait=False)
        try:
            path = self.bundle.folder / self.graph.file
            self.session: Session = open_session(path, provider, threads, gpu, engine_cache)
        except EngineError:
            self._weights_check.result()  # a damaged file is the better explanation
            raise
        if packed:
            self.session = PackedSession(
                self.session,
                self.graph.inputs,
                self.graph.outputs,
                self.config.summary_type,
                _MULTIPLES.get(provider, Multiples()),
            )
        self.tokenizer = tokenizer.result()
        self._with_choices = any("num_choices" in spec.axes for spec in self.graph.inputs)

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

    def answer(self, groups: Iterable[Sequence[R]], read: Callable[[list[R]], Sequence[T]]) -> Iterator[list[T]]:
        """For each group of sequences, in order, what `read` returns for each; `read` gets whole batches."""
        return answer_groups(groups, read, self.batching)

    def answer_each(self, sequences: Iterable[R], read: Callable[[list[R]], Sequence[T]]) -> Iterator[T]:
        """`answer` for groups of one."""
        for (answer,) in self.answer(([sequence] for sequence in sequences), read):
            yield answer

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
        if not self.config.uses_langs:
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
        self._weights_check.result()

    def feed(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The graph's outputs as the engine gives them, for all of its inputs.

        Raises:
            BundleError: the weights' file has changed since the export.
            EngineError: the engine failed.
        """
        self.check_weights()
        return self.session.run(inputs)

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

    @property
    def has_cache(self) -> bool:
        """Whether the graph takes and gives keys and values of past tokens."""
        return self.graph.has_cache

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
