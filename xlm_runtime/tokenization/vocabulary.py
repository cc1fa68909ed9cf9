"""From tokens to ids and back: the base vocabulary, added tokens, and special ones by name and around sequences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.bpe import END_OF_WORD, BytePairs
from xlm_runtime.tokenization.token_index import TokensById, tokens_by_id

SPECIAL_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in a text before anything else happens to it.

    `lstrip`/`rstrip` take the white space beside it, `single_word` refuses it inside words, `special` tokens are
    left out by `decode(skip_special_tokens=True)`; one that is `normalized` and not special is stored lower-cased
    by a tokenizer that lower-cases.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False

    def state(self) -> dict[str, Any]:
        """As `tokenizer_config.json` holds it."""
        return {
            "content": self.content,
            "lstrip": self.lstrip,
            "normalized": self.normalized,
            "rstrip": self.rstrip,
            "single_word": self.single_word,
            "special": self.special,
        }


def added_token(value: object, special: bool | None = None) -> AddedToken:
    """Reads a token from a string, a saved dictionary or an `AddedToken`.

    Args:
        special: whether the token is special, in place of what `value` says.

    Raises:
        InputError: anything else was given.
    """
    if isinstance(value, AddedToken):
        token = value
    elif isinstance(value, str):
        token = AddedToken(value)
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        names = AddedToken.__dataclass_fields__
        token = AddedToken(**{name: value[name] for name in names if name in value})
    else:
        raise InputError(f"A token must be a string or an AddedToken, got {value!r}.")
    return token if special is None else replace(token, special=special)


def token_text(token: AddedToken | str) -> str:
    """What a token looks like in a text."""
    return token if isinstance(token, str) else token.content


class Vocabulary:
    """Token ↔ id, and the special tokens by their names. Added tokens shadow the base vocabulary, as Hugging Face has
    it.

    Args:
        encoder: the base vocabulary, token → id.
        ranks: rank of each byte-pair merge, keyed "first second".
        named: names of `SPECIAL_NAMES` → tokens; None for those that the tokenizer lacks.
        extra: the additional special tokens.
        added: the tokens that a saved configuration has ids for.
        lowercase: store added tokens that are normalised in small letters.
        whole_words: a byte for each id, 1 where merges make the token out of the word that it spells, see
            `find_whole_words`; empty where that is not known.
    """

    def __init__(
        self,
        encoder: Mapping[str, int],
        ranks: Mapping[str, int],
        named: Mapping[str, AddedToken | str | None],
        extra: Sequence[AddedToken | str],
        added: Mapping[int, AddedToken],
        lowercase: bool,
        whole_words: bytes = b"",
    ) -> None:
        self.encoder = encoder
        self.ranks = ranks
        self.pairs = BytePairs(ranks)
        self.whole_words = whole_words
        self.named = {name: token_text(token) for name in SPECIAL_NAMES if (token := named.get(name)) is not None}
        self.extra = [token_text(token) for token in extra]
        self.added = dict(added)
        self.added_ids = {token.content: index for index, token in added.items()}
        self._lowercase = lowercase
        self._decoder: dict[int, str] | TokensById | None = None
        # whether an added token has another id than the base vocabulary gives it
        self._shadowed = True
        # ids of bos_token and sep_token, which every sequence needs
        self._edges: tuple[int | None, int | None] = None, None
        self.add([token for token in self.all_special_tokens if token not in self.added_ids], special=True)

    def __len__(self) -> int:
        return len(self.encoder) + sum(token not in self.encoder for token in self.added_ids)

    def __contains__(self, token: str) -> bool:
        return token in self.encoder or token in self.added_ids

    def all(self) -> dict[str, int]:
        """Base vocabulary and added tokens."""
        return {**self.encoder, **self.added_ids}

    def add(self, tokens: Iterable[AddedToken | str], special: bool) -> int:
        """Add tokens that texts are split at.

        Returns:
            How many of them were new.

        Raises:
            InputError: something that is no token.
        """
        count = 0
        following = len(self)
        specials = set(self.all_special_tokens)
        for given in tokens:
            if isinstance(given, str):
                if not given or given in self.added_ids:
                    continue
                is_special = special or given in specials
                token = AddedToken(given, normalized=not is_special, special=is_special)
            else:
                token = added_token(given, special=True if special else None)
                if not token.content:
                    continue
            if self._lowercase and token.normalized and not token.special:
                token = replace(token, content=token.content.lower())
            index = self.added_ids.get(token.content, self.encoder.get(token.content))
            if index is None:
                index = following + count
                count += 1
            if token.special and token.content not in specials:
                self.extra.append(token.content)
                specials.add(token.content)
            self.added[index] = token
            self.added_ids[token.content] = index
        self._shadowed = any(self.encoder.get(token) != index for token, index in self.added_ids.items())
        self._edges = self.special_id("bos_token"), self.special_id("sep_token")
        return count

    # -- ids --------------------------------------------------------------------------------------------------------

    def id(self, token: str) -> int:
        """A token's id, or that of `unk_token`.

        Raises:
            InputError: an unknown token where there is no `unk_token`.
        """
        index = self.added_ids.get(token)
        if index is None:
            index = self.encoder.get(token)
        if index is None:
            unk = self.named.get("unk_token")
            index = None if unk is None else self.encoder.get(unk, self.added_ids.get(unk))
        if index is None:
            raise InputError(f"Token {token!r} is not in the vocabulary, which has no unk_token either.")
        return index

    def ids(self, tokens: list[str]) -> tuple[int, ...]:
        """`id` of each."""
        if not self._shadowed:
            found = tuple(map(self.encoder.get, tokens))
            if None not in found:
                return found  # type: ignore[return-value]
        return tuple(map(self.id, tokens))

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word's subwords; the word must not be empty."""
        if self.whole_words and not self._shadowed:
            index = self.encoder.get(word + END_OF_WORD)
            if index is not None and self.whole_words[index]:
                return (index,)
        return self.ids(self.pairs.symbols(word))

    def token(self, index: int) -> str:
        """`unk_token` for ids that no token has."""
        known = self.added.get(index)
        if known is not None:
            return known.content
        if self._decoder is None:
            self._decoder = tokens_by_id(self.encoder)
        return self._decoder.get(index, self.named.get("unk_token", ""))

    def tokens(self, indices: Iterable[int]) -> list[str]:
        """`token` of each."""
        return [self.token(index) for index in indices]

    # -- special tokens ---------------------------------------------------------------------------------------------

    def special_id(self, name: str) -> int | None:
        """The id of a special token by its name, such as "pad_token"; None where the tokenizer has none."""
        token = self.named.get(name)
        return None if token is None else self.id(token)

    @property
    def all_special_tokens(self) -> list[str]:
        """Named ones first, then the additional ones, each once."""
        return list(dict.fromkeys([*self.named.values(), *self.extra]))

    @property
    def all_special_ids(self) -> list[int]:
        """The id of each of `all_special_tokens`."""
        return [self.id(token) for token in self.all_special_tokens]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<s> A </s>` or `<s> A </s> B </s>`.

        Raises:
            InputError: there is no bos_token or sep_token.
        """
        bos, sep = self._edges
        if bos is None or sep is None:
            raise InputError("Special tokens need a bos_token and a sep_token; use add_special_tokens=False.")
        if token_ids_1 is None:
            return [bos, *token_ids_0, sep]
        return [bos, *token_ids_0, sep, *token_ids_1, sep]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """How many special tokens come to a text, or to a pair."""
        return 3 if pair else 2


def find_whole_words(encoder: Mapping[str, int], pairs: BytePairs) -> bytes:
    """Which tokens byte-pair merges make out of the word that they spell: most of those that end a word, but no rule
    says that all are, so each is merged. Half a second for 95,000 tokens.

    Returns:
        A byte for each id, 1 for these tokens and 0 for others; empty where ids are not 0, 1, 2, ….
    """
    found = bytearray(len(encoder))
    if set(encoder.values()) != set(range(len(encoder))):
        return b""
    for token, index in encoder.items():
        word = token.removesuffix(END_OF_WORD)
        found[index] = word != "" and word != token and pairs.symbols(word) == [token]
    return bytes(found)
