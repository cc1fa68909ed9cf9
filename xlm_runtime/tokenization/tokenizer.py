"""XLM's tokenizer: ids, masks, spans and words of texts, pairs and batches, without dependencies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xlm_runtime.checked_json import Check, flag, nullable
from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import decoding, files
from xlm_runtime.tokenization.encoding import BatchEncoding, to_array
from xlm_runtime.tokenization.inputs import Input, read_samples
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.options import NO_LIMIT, SIDES, WHITESPACE, parse_options
from xlm_runtime.tokenization.rows import Rows, token_types
from xlm_runtime.tokenization.special_tokens import SpecialToken, SpecialTokenId
from xlm_runtime.tokenization.text_encoder import CACHE_MB, Preparation, TextEncoder, check_cache_mb
from xlm_runtime.tokenization.token_row import surround
from xlm_runtime.tokenization.vocabulary import SPECIAL_NAMES, AddedToken, Vocabulary, find_whole_words
from xlm_runtime.tokenization.word_files import read_words, write_vocabulary

ADDITIONAL_SPECIAL_TOKENS = tuple(f"<special{number}>" for number in range(10))


class XLMTokenizer:
    """Moses (or a Chinese, Thai or Japanese segmenter), lower-casing and byte-pair merges.

    Ids equal Hugging Face's: `tokenizer(text)` its `tokenizer(text)`, `tokenizer(text, lang=L)` its
    `_tokenize(text, lang=L)`, which is what the model was trained with. Safe to share between threads. The options
    are those of Hugging Face's `XLMTokenizer`, and seven more.

    Args:
        moses_tables: the contents of `moses.json`; without them they are read from an installed sacremoses when first
            needed.
        mask_alias: another spelling of the mask token in texts, unless the vocabulary has a token of that name; None
            for none.
        ja_model: the path of KyTea's model file.
        whitespace: what becomes of line ends, tabs and other white space that XLM's normalisation deletes: "delete", as
            in Hugging Face, joins the words beside it; "space" counts each as one space, as the original tools do.
        cache_mb: MiB that all remembered pieces of text and words may take together.
        whole_words_file: `whole_words.bin`, which says which words need no merges; None to find out with each.
        token_index_file: `token_index.bin`, which says where both files have each token; None to read them whole.
        preparation, split_as: what a family does before splitting, and the language that it splits all texts as; see
            `TextEncoder`.

    Attributes:
        vocabulary: tokens and ids.
        encoder: the short way for one text or pair: `encoder.row(text)`, `encoder.ids(text)`.

    Raises:
        BundleError: files are missing or not what they should be.
        InputError: an option that is not known.
    """

    hub_class: ClassVar[str] = "XLMTokenizer"
    """Hugging Face's class for the same files."""
    own_options: ClassVar[Mapping[str, Check]] = {"do_lowercase_and_remove_accent": nullable(flag)}
    """What `tokenizer_config.json` holds for this class's constructor alone; attributes have these names, too."""

    unk_token, unk_token_id = SpecialToken("unk_token"), SpecialTokenId("unk_token")
    bos_token, bos_token_id = SpecialToken("bos_token"), SpecialTokenId("bos_token")
    eos_token, eos_token_id = SpecialToken("eos_token"), SpecialTokenId("eos_token")
    sep_token, sep_token_id = SpecialToken("sep_token"), SpecialTokenId("sep_token")
    pad_token, pad_token_id = SpecialToken("pad_token"), SpecialTokenId("pad_token")
    cls_token, cls_token_id = SpecialToken("cls_token"), SpecialTokenId("cls_token")
    mask_token, mask_token_id = SpecialToken("mask_token"), SpecialTokenId("mask_token")

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
        whitespace: str = "delete",
        cache_mb: float = CACHE_MB,
        whole_words_file: str | PathLike[str] | None = None,
        token_index_file: str | PathLike[str] | None = None,
        preparation: Preparation | None = None,
        split_as: str | None = None,
    ) -> None:
        if whitespace not in WHITESPACE:
            raise InputError(f"whitespace={whitespace!r} is not known; use one of: {', '.join(WHITESPACE)}.")
        for name, side in (("padding_side", padding_side), ("truncation_side", truncation_side)):
            if side not in SIDES:
                raise InputError(f"{name} must be 'left' or 'right', got {side!r}.")
        if lang2id is not None and id2lang is not None and len(lang2id) != len(id2lang):
            raise InputError(f"lang2id has {len(lang2id)} languages and id2lang {len(id2lang)}; they must agree.")
        special = (bos_token, eos_token, unk_token, sep_token, pad_token, cls_token, mask_token)
        words = read_words(
            Path(vocab_file),
            Path(merges_file),
            None if whole_words_file is None else Path(whole_words_file),
            None if token_index_file is None else Path(token_index_file),
        )
        self.vocabulary = Vocabulary(
            words.encoder,
            words.ranks,
            dict(zip(SPECIAL_NAMES, special, strict=True)),
            additional_special_tokens,
            added_tokens_decoder or {},
            do_lowercase_and_remove_accent,
            words.whole_words,
        )
        self.encoder = TextEncoder(
            self.vocabulary,
            lowercase=do_lowercase_and_remove_accent,
            moses_tables=None if moses_tables is None else MosesTables(moses_tables),
            mask_alias=mask_alias,
            ja_model=None if ja_model is None else str(ja_model),
            lang2id=None if lang2id is None else dict(lang2id),
            truncation_side=truncation_side,
            whitespace=whitespace,
            cache_mb=check_cache_mb(cache_mb),
            preparation=preparation,
            split_as=split_as,
        )
        if id2lang is None and lang2id is not None:
            id2lang = {index: lang for lang, index in lang2id.items()}
        self.id2lang = None if id2lang is None else {int(index): lang for index, lang in id2lang.items()}
        self.model_max_length = NO_LIMIT if model_max_length is None else int(model_max_length)
        self.padding_side = padding_side
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces

    @classmethod
    def from_pretrained(
        cls,
        folder: str | PathLike[str],
        *,
        mask_alias: str | None = "<mask>",
        ja_model: str | PathLike[str] | None = None,
        whitespace: str = "delete",
        do_lowercase_and_remove_accent: bool | None = None,
        model_max_length: int | None = None,
        cache_mb: float = CACHE_MB,
    ) -> XLMTokenizer:
        """Load a folder with `vocab.json` and `merges.txt`, and what else it holds of Hugging Face's tokenizer files,
        `moses.json`, `whole_words.bin` and `token_index.bin`.

        Args:
            mask_alias, ja_model, whitespace, cache_mb: see the class.
            do_lowercase_and_remove_accent, model_max_length: in place of what the folder says.

        Raises:
            BundleError: files are missing or not what they should be.
        """
        options = files.read_options(folder, cls.own_options)
        if do_lowercase_and_remove_accent is not None:
            options["do_lowercase_and_remove_accent"] = do_lowercase_and_remove_accent
        if model_max_length is not None:
            options["model_max_length"] = model_max_length
        return cls(**options, mask_alias=mask_alias, ja_model=ja_model, whitespace=whitespace, cache_mb=cache_mb)

    def save_pretrained(self, folder: str | PathLike[str]) -> tuple[str, ...]:
        """Write a folder that `from_pretrained` and Hugging Face load.

        Returns:
            The files' paths.
        """
        options = {
            **{name: getattr(self, name) for name in self.own_options},
            "lang2id": self.lang2id,
            "id2lang": None if self.id2lang is None else {str(index): lang for index, lang in self.id2lang.items()},
            "model_max_length": self.model_max_length,
            "padding_side": self.padding_side,
            "truncation_side": self.truncation_side,
            "clean_up_tokenization_spaces": self.clean_up_tokenization_spaces,
        }
        vocabulary = self.vocabulary
        written = files.write_folder(
            Path(folder),
            tokenizer_class=self.hub_class,
            encoder=vocabulary.encoder,
            ranks=vocabulary.ranks,
            options=options,
            special=vocabulary.named,
            additional=vocabulary.extra,
            added=vocabulary.added,
            tables=self.encoder.known_tables(),
            whole_words=vocabulary.whole_words or find_whole_words(vocabulary.encoder, vocabulary.pairs),
        )
        return tuple(map(str, written))

    def save_vocabulary(self, folder: str | PathLike[str], filename_prefix: str | None = None) -> tuple[str, str]:
        """Write `vocab.json` and `merges.txt`.

        Returns:
            Their paths.

        Raises:
            InputError: there is no such folder.
        """
        path = Path(folder)
        if not path.is_dir():
            raise InputError(f"'{path}' is not a folder.")
        vocab, merges = write_vocabulary(path, self.vocabulary.encoder, self.vocabulary.ranks, filename_prefix)
        return str(vocab), str(merges)

    # -- texts to ids -----------------------------------------------------------------------------------------------

    def __call__(
        self,
        text: Input | Sequence[Any],
        text_pair: Input | Sequence[Any] | None = None,
        *,
        lang: str | Sequence[str] | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        is_split_into_words: bool = False,
        return_tensors: str | None = None,
        return_attention_mask: bool | None = None,
        return_token_type_ids: bool | None = None,
        return_special_tokens_mask: bool = False,
        return_overflowing_tokens: bool = False,
        return_offsets_mapping: bool = False,
        return_length: bool = False,
    ) -> BatchEncoding:
        """Tokenize a text, a pair, or a batch of either.

        Args:
            text: a string, or a list of strings or of (first, second) pairs; with `is_split_into_words` a list of
                words or a list of such lists.
            lang: one language for all, or one for each text; without it every text is treated as Hugging Face's
                public call does, as English.
            max_length: tokens of a row, special ones included.
            return_overflowing_tokens: every window of a text that is too long becomes a row of its own;
                `overflow_to_sample_mapping` says which text it belongs to.
            return_token_type_ids: in XLM they index the *word* embeddings, so they only come when asked for.

        Raises:
            InputError: unknown options or languages, and inputs that are not text.
        """
        if return_tensors not in (None, "np"):
            raise InputError(f"return_tensors={return_tensors!r} is not known; use 'np' for numpy arrays, or None.")
        pads, cuts = parse_options(
            padding,
            truncation,
            max_length,
            stride,
            pad_to_multiple_of,
            padding_side or self.padding_side,
            self.truncation_side,
            return_overflowing_tokens,
            self.model_max_length,
        )
        if pads.strategy != "do_not_pad" and self.pad_token_id is None:
            raise InputError("Padding needs a pad_token, and this tokenizer has none.")
        samples, batched = read_samples(text, text_pair, lang, is_split_into_words)
        for each in [lang] if lang is None or isinstance(lang, str) else lang:
            self.encoder.check_language(each)
        rows = Rows(
            self.encoder, samples, pads, cuts, special=add_special_tokens, return_offsets=return_offsets_mapping
        )
        data = rows.columns(
            token_type_ids=bool(return_token_type_ids),
            attention_mask=return_attention_mask is not False,
            special_tokens_mask=return_special_tokens_mask,
            offset_mapping=return_offsets_mapping,
            length=return_length,
        )
        if return_tensors == "np":
            return BatchEncoding({name: to_array(name, column) for name, column in data.items()}, rows)
        if not batched and not return_overflowing_tokens:
            data = {name: column[0] for name, column in data.items()}
        return BatchEncoding(data, rows)

    def encode(
        self,
        text: Input,
        text_pair: Input | None = None,
        *,
        lang: str | None = None,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
    ) -> list[int]:
        """The `input_ids` of one text or pair."""
        encoding = self(
            text,
            text_pair,
            lang=lang,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            is_split_into_words=not isinstance(text, str),
        )
        ids: list[int] = encoding["input_ids"]
        return ids

    def tokenize(self, text: str, *, lang: str | None = None, bypass_tokenizer: bool = False) -> list[str]:
        """A text's tokens as strings, those that the vocabulary lacks included.

        Args:
            bypass_tokenizer: the text is tokenised and lower-cased already; only byte-pair merges are applied.
        """
        return self.encoder.tokens(text, lang, only_merge=bypass_tokenizer)

    @property
    def do_lowercase_and_remove_accent(self) -> bool:
        return self.encoder.lowercase

    @property
    def lang2id(self) -> dict[str, int] | None:
        """The model's languages; None to take any."""
        return self.encoder.lang2id

    @lang2id.setter
    def lang2id(self, value: dict[str, int] | None) -> None:
        self.encoder.lang2id = value

    @property
    def truncation_side(self) -> str:
        """Where texts are cut: "left" or "right"."""
        return self.encoder.truncation_side

    @truncation_side.setter
    def truncation_side(self, value: str) -> None:
        self.encoder.truncation_side = value

    @property
    def cache_mb(self) -> float:
        """MiB that remembered pieces and words take at most. Setting it forgets them; not while other threads use the
        tokenizer.

        Raises:
            InputError: no number of at least 0.
        """
        return self.encoder.cache_mb

    @cache_mb.setter
    def cache_mb(self, value: float) -> None:
        self.encoder.cache_mb = check_cache_mb(value)
        self.encoder.reset()

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
        """Add tokens that texts are split at. Not while other threads use the tokenizer.

        Returns:
            How many of them are new.

        Raises:
            InputError: something that is no token.
        """
        tokens = [new_tokens] if isinstance(new_tokens, (str, AddedToken)) else list(new_tokens)
        count = self.vocabulary.add(tokens, special_tokens)
        self.encoder.reset()
        return count

    @property
    def additional_special_tokens(self) -> list[str]:
        return list(self.vocabulary.extra)

    @property
    def special_tokens_map(self) -> dict[str, str]:
        return dict(self.vocabulary.named)

    @property
    def all_special_tokens(self) -> list[str]:
        return self.vocabulary.all_special_tokens

    @property
    def all_special_ids(self) -> list[int]:
        return self.vocabulary.all_special_ids

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<s> A </s>` or `<s> A </s> B </s>`."""
        return self.vocabulary.build_inputs_with_special_tokens(token_ids_0, token_ids_1)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return self.vocabulary.num_special_tokens_to_add(pair)

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for `<s> A </s>`, 1 for `B </s>`. In XLM these index the word embeddings."""
        return token_types(len(token_ids_0), None if token_ids_1 is None else len(token_ids_1))

    def get_special_tokens_mask(
        self,
        token_ids_0: list[int],
        token_ids_1: list[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """1 for special tokens: those that would be added, or those that are there already."""
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise InputError("A sequence that has its special tokens already comes alone, without a second one.")
            special = set(self.all_special_ids)
            return [int(index in special) for index in token_ids_0]
        return surround(1, [0] * len(token_ids_0), None if token_ids_1 is None else [0] * len(token_ids_1))

    # -- ids to text ------------------------------------------------------------------------------------------------

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> int | list[int]:
        """`unk_token_id` for tokens that are not in the vocabulary."""
        if isinstance(tokens, str):
            return self.vocabulary.id(tokens)
        return [self.vocabulary.id(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> str | list[str]:
        """One id → one token; a sequence or array of ids → a list. Unknown ids give `unk_token`."""
        tokens = decoding.read_tokens(self.vocabulary, ids, skip_special_tokens)
        return tokens[0] if isinstance(ids, (int, np.integer)) else tokens

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str:
        return decoding.join_tokens(tokens)

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
        cleans = self.clean_up_tokenization_spaces if clean_up is None else clean_up
        return decoding.decode(self.vocabulary, ids, skip, cleans)

    @staticmethod
    def clean_up_tokenization(text: str) -> str:
        """Take away the spaces before English punctuation and contractions."""
        return decoding.clean_up_spaces(text)
