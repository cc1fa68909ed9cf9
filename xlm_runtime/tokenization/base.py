"""A tokenizer's vocabulary, special tokens and single texts; calls on batches are in `tokenizer.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.added_tokens import TokenSplitter
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.bpe import END_OF_WORD, merge_symbols
from xlm_runtime.tokenization.encoding import SIDES, Tokens
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.piece_encoder import Ids, PieceEncoder, WordLayout, layout_words
from xlm_runtime.tokenization.rotating_cache import RotatingCache
from xlm_runtime.tokenization.sacremoses_tables import read_tables
from xlm_runtime.tokenization.segmenters import SEGMENTED_LANGUAGES
from xlm_runtime.tokenization.special import SpecialTokens
from xlm_runtime.tokenization.vocabulary import AddedToken, Vocabulary, read_merges, read_vocabulary
from xlm_runtime.tokenization.words import WordPipeline

# how Hugging Face writes "no limit" as a model's longest input
NO_LIMIT = int(1e30)
ADDITIONAL_SPECIAL_TOKENS = tuple(f"<special{number}>" for number in range(10))
# at most twice this many pieces and words are remembered for each language
CACHE_ENTRIES = 1 << 15
CACHE_KEY_LENGTH = 64
_CLEAN_UP = (" .", " ?", " !", " ,"), (" n't", " 'm", " 's", " 've", " 're")


@cache
def _installed_tables() -> MosesTables:
    return MosesTables(read_tables())


class TokenizerBase(SpecialTokens):
    """See `XLMTokenizer`."""

    def __init__(
        self,
        vocab_file: str | PathLike[str],
        merges_file: str | PathLike[str],
        *,
        unk_token: str | AddedToken | None = "<unk>",
        bos_token: str | AddedToken | None = "<s>",
        sep_token: str | AddedToken | None = "</s>",
        pad_token: str | AddedToken | None = "<pad>",
        cls_token: str | AddedToken | None = "</s>",
        mask_token: str | AddedToken | None = "<special1>",
        eos_token: str | AddedToken | None = None,
        additional_special_tokens: Sequence[str | AddedToken] = ADDITIONAL_SPECIAL_TOKENS,
        lang2id: Mapping[str, int] | None = None,
        id2lang: Mapping[int, str] | None = None,
        do_lowercase_and_remove_accent: bool = True,
        model_max_length: int | None = None,
        padding_side: str = "right",
        truncation_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        added_tokens_decoder: Mapping[int, AddedToken] | None = None,
        moses_tables: Mapping[str, Any] | None = None,
        mask_alias: str | None = "<mask>",
        ja_model: str | PathLike[str] | None = None,
    ) -> None:
        """The options of Hugging Face's `XLMTokenizer`, and three more.

        `moses_tables`: the contents of `moses.json`; without them they are read from an installed sacremoses when
        first needed. `mask_alias`: another spelling of the mask token in texts, unless the vocabulary has a token of
        that name; None for none. `ja_model`: the path of KyTea's model file.

        Raises `BundleError` for files that are missing or not what they should be, `InputError` for options.
        """
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in SIDES:
                raise InputError(f"{name} must be 'left' or 'right', got {side!r}.")
        if lang2id is not None and id2lang is not None and len(lang2id) != len(id2lang):
            raise InputError(f"lang2id has {len(lang2id)} languages and id2lang {len(id2lang)}; they must agree.")
        named = {
            "bos_token": bos_token,
            "eos_token": eos_token,
            "unk_token": unk_token,
            "sep_token": sep_token,
            "pad_token": pad_token,
            "cls_token": cls_token,
            "mask_token": mask_token,
        }
        self.do_lowercase_and_remove_accent = do_lowercase_and_remove_accent
        self.vocabulary = Vocabulary(
            read_vocabulary(Path(vocab_file)),
            read_merges(Path(merges_file)),
            named,
            additional_special_tokens,
            added_tokens_decoder or {},
            do_lowercase_and_remove_accent,
        )
        self.lang2id = None if lang2id is None else dict(lang2id)
        if id2lang is None and self.lang2id is not None:
            id2lang = {index: lang for lang, index in self.lang2id.items()}
        self.id2lang = None if id2lang is None else {int(index): lang for index, lang in id2lang.items()}
        self.model_max_length = NO_LIMIT if model_max_length is None else int(model_max_length)
        self.padding_side = padding_side
        self.truncation_side = truncation_side
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.mask_alias = mask_alias
        self.ja_model = None if ja_model is None else str(ja_model)
        self._tables = None if moses_tables is None else MosesTables(moses_tables)
        self._reset()

    def _reset(self) -> None:
        """Forget everything derived from the vocabulary."""
        self._lock = Lock()
        self._pipelines: dict[str, WordPipeline] = {}
        self._encoders: dict[str, PieceEncoder] = {}
        self._raw_ids: dict[str, RotatingCache[str, Ids]] = {}
        self._word_ids: RotatingCache[str, Ids] = RotatingCache(self._make_ids, CACHE_ENTRIES, CACHE_KEY_LENGTH)
        self._edges = self.bos_token_id, self.sep_token_id
        alias: dict[str, str] = {}
        mask = self.mask_token
        if self.mask_alias and mask is not None and self.mask_alias not in self.vocabulary:
            alias[self.mask_alias] = mask
        tokens = {token.content: token for token in self.vocabulary.added.values()}
        self._splitter = TokenSplitter(tokens, alias)

    def __getstate__(self) -> dict[str, Any]:
        derived = ("_lock", "_pipelines", "_encoders", "_raw_ids", "_word_ids", "_splitter", "_edges")
        return {name: value for name, value in self.__dict__.items() if name not in derived}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    # -- one text ---------------------------------------------------------------------------------------------------

    @property
    def moses_tables(self) -> MosesTables:
        """Raises `MissingExtraError` where there is neither `moses.json` nor sacremoses."""
        return self._tables if self._tables is not None else _installed_tables()

    @property
    def has_tables(self) -> bool:
        """Whether the Moses tables were given or have been read, so that they can be saved."""
        return self._tables is not None or bool(self._encoders)

    def check_language(self, lang: str | None) -> None:
        """Raises `InputError` for a language that the model does not have."""
        if lang is not None and self.lang2id and lang not in self.lang2id:
            raise InputError(f"Language {lang!r} is not one of this model's: {', '.join(sorted(self.lang2id))}.")

    def encode_ids(self, text: str, lang: str | None = None) -> list[int]:
        """Ids of a text without special tokens around it; those inside it are found."""
        language = lang or "en"
        segments = self._splitter.split(text)
        if len(segments) == 1 and segments[0].token is None:
            return self._text_ids(segments[0].text, language)
        ids: list[int] = []
        for segment in segments:
            if segment.token is not None:
                ids.append(self.vocabulary.id(segment.token))
            else:
                ids += self._text_ids(segment.text, language)
        return ids

    def encode_layout(self, text: str, lang: str | None = None) -> Tokens:
        """The same ids, with each token's span in `text` and the number of its word."""
        language = lang or "en"
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        words: list[int] = []
        for segment in self._splitter.split(text):
            first = words[-1] + 1 if words else 0
            if segment.token is not None:
                ids.append(self.vocabulary.id(segment.token))
                spans.append((segment.start, segment.start + len(segment.text)))
                words.append(first)
                continue
            some_ids, some_spans, some_words = self._text_layout(segment.text, language)
            ids += some_ids
            origin = segment.origin
            if origin is None:
                spans += [(a + segment.start, b + segment.start) for a, b in some_spans]
            else:
                spans += [(origin[a], origin[b - 1] + 1) if b > a else (origin[a], origin[a]) for a, b in some_spans]
            words += [number + first for number in some_words]
        return Tokens(ids, spans, words)

    def tokenize(self, text: str, *, lang: str | None = None, bypass_tokenizer: bool = False) -> list[str]:
        """A text's tokens as strings, those that the vocabulary lacks included.

        `bypass_tokenizer`: the text is tokenised and lower-cased already; only byte-pair merges are applied.
        """
        self.check_language(lang)
        tokens: list[str] = []
        for segment in self._splitter.split(text):
            if segment.token is not None:
                tokens.append(segment.token)
                continue
            words = segment.text.split() if bypass_tokenizer else self._pipeline(lang or "en").words(segment.text)
            for word in words:
                tokens += merge_symbols(word, self.vocabulary.ranks)
        return tokens

    def _text_ids(self, text: str, lang: str) -> list[int]:
        if lang not in SEGMENTED_LANGUAGES:
            return self._encoder(lang).ids(text)
        raw_ids = self._raw_ids.get(lang)
        if raw_ids is None:
            pipeline = self._pipeline(lang)
            with self._lock:
                made: RotatingCache[str, Ids] = RotatingCache(
                    lambda word: tuple(chain.from_iterable(map(self._word_ids.__getitem__, pipeline.fold([word])))),
                    CACHE_ENTRIES,
                    CACHE_KEY_LENGTH,
                )
                raw_ids = self._raw_ids.setdefault(lang, made)
        return list(chain.from_iterable(map(raw_ids.__getitem__, self._pipeline(lang).raw_words(text))))

    def _text_layout(self, text: str, lang: str) -> tuple[list[int], list[tuple[int, int]], list[int]]:
        if lang not in SEGMENTED_LANGUAGES:
            return self._encoder(lang).layout(text)
        words = self._pipeline(lang).aligned_words(AlignedText.identity(text))
        return layout_words(words, self._word_layout)

    def _pipeline(self, lang: str) -> WordPipeline:
        pipeline = self._pipelines.get(lang)
        if pipeline is None:
            tables = None if lang in ("th", "ja", "zh") else self.moses_tables
            made = WordPipeline(lang, tables, self.do_lowercase_and_remove_accent, self.ja_model)
            with self._lock:
                pipeline = self._pipelines.setdefault(lang, made)
        return pipeline

    def _encoder(self, lang: str) -> PieceEncoder:
        encoder = self._encoders.get(lang)
        if encoder is None:
            made = PieceEncoder(
                self._pipeline(lang), self._word_ids.__getitem__, self._word_layout, CACHE_ENTRIES, CACHE_KEY_LENGTH
            )
            with self._lock:
                encoder = self._encoders.setdefault(lang, made)
        return encoder

    def _make_ids(self, word: str) -> Ids:
        return self.vocabulary.ids(merge_symbols(word, self.vocabulary.ranks))

    def _word_layout(self, word: str) -> WordLayout:
        symbols = merge_symbols(word, self.vocabulary.ranks)
        lengths = [len(symbol) for symbol in symbols]
        lengths[-1] -= len(END_OF_WORD)
        return self.vocabulary.ids(symbols), lengths

    # -- vocabulary -------------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Without added tokens."""
        return len(self.vocabulary.encoder)

    def __len__(self) -> int:
        """With added tokens."""
        return len(self.vocabulary)

    def get_vocab(self) -> dict[str, int]:
        return self.vocabulary.all()

    def get_added_vocab(self) -> dict[str, int]:
        return dict(self.vocabulary.added_ids)

    def add_tokens(
        self, new_tokens: str | AddedToken | Sequence[str | AddedToken], special_tokens: bool = False
    ) -> int:
        """Add tokens that texts are split at; returns how many are new. Not while other threads use the tokenizer."""
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        count = self.vocabulary.add(tokens, special_tokens)
        self._reset()
        return count

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """`unk_token_id` for tokens that are not in the vocabulary."""
        if isinstance(tokens, str):
            return self.vocabulary.id(tokens)
        return [self.vocabulary.id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """One id → one token; a sequence or array of ids → a list. Unknown ids give `unk_token`."""
        if isinstance(ids, (int, np.integer)):
            return self.vocabulary.token(int(ids))
        skipped = set(self.all_special_ids) if skip_special_tokens else set()
        return [self.vocabulary.token(index) for index in map(int, ids) if index not in skipped]

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        return "".join(tokens).replace(END_OF_WORD, " ").strip()

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> str | list[str]:
        """Ids, a list or an array → text; a list of lists or two-dimensional array → a list of texts."""
        if isinstance(token_ids, np.ndarray):
            token_ids = token_ids.tolist()
        if isinstance(token_ids, (list, tuple)) and token_ids and isinstance(token_ids[0], (list, tuple, np.ndarray)):
            return self.batch_decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)
        return self._decode(token_ids, skip_special_tokens, clean_up_tokenization_spaces)

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        return [self._decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in sequences]

    def _decode(self, ids: Any, skip: bool, clean_up: bool | None) -> str:
        tokens = self.convert_ids_to_tokens(ids, skip)
        text = self.convert_tokens_to_string([tokens] if isinstance(tokens, str) else tokens)
        if clean_up if clean_up is not None else self.clean_up_tokenization_spaces:
            return self.clean_up_tokenization(text)
        return text

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Take away the spaces before English punctuation and contractions."""
        before, after = _CLEAN_UP
        for spaced in before:
            text = text.replace(spaced, spaced[1:])
        text = text.replace(" ' ", "'")
        for spaced in after:
            text = text.replace(spaced, spaced[1:])
        return text
