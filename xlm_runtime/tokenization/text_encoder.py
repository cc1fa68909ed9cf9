"""One text, or pair, to token ids: `XLMTokenizer.encoder`, the short way past the facade's options and batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from threading import Lock
from typing import Any, NamedTuple, Protocol

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.added_tokens import TokenSplitter
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.bpe import END_OF_WORD
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.normalization import space_for_deleted
from xlm_runtime.tokenization.offset_encoder import OffsetEncoder, Offsets, align_tokens
from xlm_runtime.tokenization.options import TRUNCATION, Truncation
from xlm_runtime.tokenization.piece_encoder import Ids, PieceEncoder
from xlm_runtime.tokenization.rotating_cache import CacheMemory, RotatingCache
from xlm_runtime.tokenization.sacremoses_tables import read_tables
from xlm_runtime.tokenization.segmenters import SEGMENTED_LANGUAGES
from xlm_runtime.tokenization.token_row import TokenRow, surround
from xlm_runtime.tokenization.vocabulary import Vocabulary
from xlm_runtime.tokenization.windows import windows
from xlm_runtime.tokenization.words import WordPipeline

# what is remembered takes at most so many MiB; XQuAD in six languages takes 17
CACHE_MB = 64
_DERIVED = ("_lock", "_memory", "_languages", "_offsets", "_splitter", "_needle", "_find_token")


class Preparation(Protocol):
    """What a family does to a text before all else, special tokens left out; both forms give the same characters."""

    def plain(self, text: str) -> str: ...

    def aligned(self, source: AlignedText) -> AlignedText: ...


class _Language(NamedTuple):
    """How texts in one language become words and ids; `pieces` where Moses splits them."""

    pipeline: WordPipeline
    ids: Callable[[str], list[int]]
    pieces: PieceEncoder | None


class TextEncoder:
    """Texts to ids, language by language; what it has read once it remembers. Safe to share between threads.

    Args:
        vocabulary: tokens to ids; after a change of it call `reset`.
        lowercase: lower-case words and take their accents.
        moses_tables: without them they are read from an installed sacremoses when first needed.
        mask_alias: another spelling of the mask token, unless the vocabulary has a token of that name.
        ja_model: the path of KyTea's model file.
        lang2id: the model's languages; None to take any.
        truncation_side: where `row` cuts, "left" or "right".
        whitespace: see `XLMTokenizer`.
        cache_mb: MiB that all remembered pieces and words may take together, see `CacheMemory`.
        preparation: what each text goes through first; None for nothing.
        split_as: the language that every text is split as, whatever it is in; None for its own, English by default.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        lowercase: bool = True,
        moses_tables: MosesTables | None = None,
        mask_alias: str | None = None,
        ja_model: str | None = None,
        lang2id: dict[str, int] | None = None,
        truncation_side: str = "right",
        whitespace: str = "delete",
        cache_mb: float = CACHE_MB,
        preparation: Preparation | None = None,
        split_as: str | None = None,
    ) -> None:
        self.vocabulary = vocabulary
        self.lowercase = lowercase
        self.mask_alias = mask_alias
        self.ja_model = ja_model
        self.lang2id = lang2id
        self.truncation_side = truncation_side
        self._spaces = whitespace == "space"
        self.cache_mb = cache_mb
        self._tables = moses_tables
        self._preparation = preparation
        self._split_as = split_as
        self.reset()

    def reset(self) -> None:
        """Forget everything derived from the vocabulary. Not while other threads use the encoder."""
        self._lock = Lock()
        self._memory = CacheMemory(self.cache_mb)
        self._languages: dict[str, _Language] = {}
        self._offsets: dict[str, Callable[[str], Offsets]] = {}
        alias: dict[str, str] = {}
        mask = self.vocabulary.named.get("mask_token")
        if self.mask_alias and mask is not None and self.mask_alias not in self.vocabulary:
            alias[self.mask_alias] = mask
        tokens = {token.content: token for token in self.vocabulary.added.values()}
        self._splitter = TokenSplitter(tokens, alias)
        self._needle, self._find_token = self._splitter.needle, self._splitter.search

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.reset()

    def check_language(self, lang: str | None) -> None:
        """Refuse a language that the model does not have.

        Raises:
            InputError: it does not have it.
        """
        if lang is not None and self.lang2id and lang not in self.lang2id:
            raise InputError(f"Language {lang!r} is not one of this model's: {', '.join(sorted(self.lang2id))}.")

    def row(
        self,
        text: str | Sequence[str],
        text_pair: str | None = None,
        *,
        lang: str | None = None,
        max_length: int | None = None,
        truncation: str = "longest_first",
        return_offsets: bool = False,
    ) -> TokenRow:
        """A text or pair with special tokens around it, as `XLMTokenizer.__call__` gives it.

        Args:
            text: a text, or its words, see `words_and_offsets`.
            lang: the language of both; without it they are treated as English.
            max_length: tokens to cut to, special ones included; None cuts nothing.
            truncation: which text is cut: "longest_first", "only_first", "only_second", "do_not_truncate".
            return_offsets: also return each token's span and word.

        Raises:
            InputError: an unknown language or strategy, or a length that the strategy cannot reach.
        """
        encode = self.ids_and_offsets if return_offsets else self._ids_row
        first = encode(text, lang) if isinstance(text, str) else self.words_and_offsets(text, lang)
        second = None if text_pair is None else encode(text_pair, lang)
        if max_length is not None:
            if truncation not in TRUNCATION:
                raise InputError(f"truncation={truncation!r} is not known; use one of: {', '.join(TRUNCATION)}.")
            length = len(first.ids) + (0 if second is None else len(second.ids))
            if length + self.vocabulary.num_special_tokens_to_add(second is not None) > max_length:
                first, second = self._cut(first, second, Truncation(truncation, max_length, self.truncation_side))
        ids = self.vocabulary.build_inputs_with_special_tokens(first.ids, None if second is None else second.ids)
        place = None if second is None else len(first.ids) + 2
        if not return_offsets:
            return TokenRow(ids, second=place)
        spans = surround((0, 0), first.spans or [], None if second is None else second.spans or [])
        words = surround(None, first.words or [], None if second is None else second.words or [])
        return TokenRow(ids, spans, words, place)

    def ids(self, text: str, lang: str | None = None) -> list[int]:
        """Ids of a text without special tokens around it; those inside it are found.

        Raises:
            InputError: an unknown language.
        """
        if lang is not None:
            self.check_language(lang)
        if self._spaces:
            text = space_for_deleted(text)
        code = self._split_as or lang or "en"
        if self._needle not in text or self._find_token(text) is None:
            return (self._languages.get(code) or self._language(code)).ids(text) if text else []
        ids: list[int] = []
        for segment in self._splitter.split(text):
            if segment.token is not None:
                ids.append(self.vocabulary.id(segment.token))
            else:
                ids += self._language(code).ids(segment.text)
        return ids

    def ids_and_offsets(self, text: str, lang: str | None = None) -> TokenRow:
        """The same ids, with each token's span in `text` and the number of its word.

        Raises:
            InputError: an unknown language.
        """
        self.check_language(lang)
        code = self._split_as or lang or "en"
        if self._spaces:
            text = space_for_deleted(text)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        words: list[int | None] = []
        first = 0  # the number of the segment's first word
        for segment in self._splitter.split(text):
            if segment.token is not None:
                ids.append(self.vocabulary.id(segment.token))
                spans.append((segment.start, segment.start + len(segment.text)))
                words.append(first)
                first += 1
                continue
            some_ids, some_spans, numbers = self._with_offsets(code)(segment.text)
            ids += some_ids
            origin = segment.origin
            if origin is None:
                spans += [(a + segment.start, b + segment.start) for a, b in some_spans]
            else:
                spans += [(origin[a], origin[b - 1] + 1) if b > a else (origin[a], origin[a]) for a, b in some_spans]
            words += [number + first for number in numbers]
            first += numbers[-1] + 1 if numbers else 0
        return TokenRow(ids, spans, words)

    def words_and_offsets(self, words: Sequence[str], lang: str | None = None) -> TokenRow:
        """The ids of words, each by itself, with each token's span in its word and the number of that word.

        Raises:
            InputError: an unknown language.
        """
        rows = [self.ids_and_offsets(word, lang) for word in words]
        return TokenRow(
            [index for row in rows for index in row.ids],
            [span for row in rows for span in row.spans or []],
            [number for number, row in enumerate(rows) for _ in row.ids],
        )

    def tokens(self, text: str, lang: str | None = None, *, only_merge: bool = False) -> list[str]:
        """A text's tokens as strings, those that the vocabulary lacks included.

        Args:
            only_merge: the text is split into words and lower-cased already; only byte-pair merges are applied.

        Raises:
            InputError: an unknown language.
        """
        self.check_language(lang)
        if self._spaces:
            text = space_for_deleted(text)
        tokens: list[str] = []
        for segment in self._splitter.split(text):
            if segment.token is not None:
                tokens.append(segment.token)
                continue
            for word in segment.text.split() if only_merge else self._words(segment.text, lang):
                tokens += self.vocabulary.pairs.symbols(word)
        return tokens

    def cache_entries(self) -> int:
        """How many entries are remembered, in all languages."""
        return self._memory.entries()

    def known_tables(self) -> Mapping[str, Any] | None:
        """The contents of `moses.json`, where they were given or have been read; else None."""
        return None if self._tables is None else self._tables.data

    def _words(self, text: str, lang: str | None) -> list[str]:
        prepared = text if self._preparation is None else self._preparation.plain(text)
        return self._language(self._split_as or lang or "en").pipeline.words(prepared)

    def _ids_row(self, text: str, lang: str | None) -> TokenRow:
        return TokenRow(self.ids(text, lang))

    def _cut(
        self, first: TokenRow, second: TokenRow | None, truncation: Truncation
    ) -> tuple[TokenRow, TokenRow | None]:
        added = self.vocabulary.num_special_tokens_to_add(second is not None)
        (window,) = windows(len(first.ids), None if second is None else len(second.ids), added, truncation)
        return first.cut(window.first), None if second is None or window.second is None else second.cut(window.second)

    def _language(self, lang: str) -> _Language:
        known = self._languages.get(lang)
        if known is None:
            made = self._segmented(lang) if lang in SEGMENTED_LANGUAGES else self._split_by_moses(lang)
            if self._preparation is not None:
                made = made._replace(ids=_prepared_ids(made.ids, self._preparation))
            with self._lock:
                known = self._languages.setdefault(lang, made)
        return known

    def _split_by_moses(self, lang: str) -> _Language:
        if self._tables is None:
            self._tables = MosesTables(read_tables())
        pipeline = WordPipeline(lang, self._tables, self.lowercase)
        pieces = PieceEncoder(pipeline, self.vocabulary.word_ids, self._memory)
        return _Language(pipeline, pieces.ids, pieces)

    def _segmented(self, lang: str) -> _Language:
        pipeline = WordPipeline(lang, None, self.lowercase, self.ja_model)
        word_ids = self.vocabulary.word_ids

        def raw_word_ids(raw_word: str) -> Ids:
            word = pipeline.fold_word(raw_word)
            if word and " " not in word:
                return word_ids(word)
            return tuple(chain.from_iterable(map(word_ids, pipeline.fold([raw_word]))))

        raw_ids: RotatingCache[str, Ids] = RotatingCache(raw_word_ids, self._memory)

        def ids(text: str) -> list[int]:
            return list(chain.from_iterable(map(raw_ids.__getitem__, pipeline.raw_words(text))))

        return _Language(pipeline, ids, None)

    def _with_offsets(self, lang: str) -> Callable[[str], Offsets]:
        known = self._offsets.get(lang)
        if known is None:
            made = self._make_offsets(self._language(lang))
            if self._preparation is not None:
                made = _prepared_offsets(made, self._preparation)
            with self._lock:
                known = self._offsets.setdefault(lang, made)
        return known

    def _make_offsets(self, language: _Language) -> Callable[[str], Offsets]:
        pipeline, _, pieces = language
        if pieces is None:
            return lambda text: align_tokens(pipeline.aligned_words(AlignedText.identity(text)), self._word_pieces)
        encoder = OffsetEncoder(pieces, pipeline, self._word_pieces, self._memory)
        return encoder.ids_and_offsets

    def _word_pieces(self, word: str) -> tuple[Ids, list[int]]:
        symbols = self.vocabulary.pairs.symbols(word)
        lengths = [len(symbol) for symbol in symbols]
        lengths[-1] -= len(END_OF_WORD)
        return self.vocabulary.ids(symbols), lengths


def _prepared_ids(ids: Callable[[str], list[int]], preparation: Preparation) -> Callable[[str], list[int]]:
    return lambda text: ids(preparation.plain(text))


def _prepared_offsets(offsets: Callable[[str], Offsets], preparation: Preparation) -> Callable[[str], Offsets]:
    """The same of a text that is prepared first, with spans of the text as it was."""

    def prepared(text: str) -> Offsets:
        source = preparation.aligned(AlignedText.identity(text))
        ids, spans, numbers = offsets(source.text)
        begin, end = source.begin, source.end
        return ids, [(begin[a], end[b - 1] if b > a else begin[a]) for a, b in spans], numbers

    return prepared


def check_cache_mb(value: float) -> float:
    """The value itself.

    Raises:
        InputError: no number of at least 0.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise InputError(f"cache_mb is {value!r}; expected a number of MiB, 0 to remember nothing.")
    return value
