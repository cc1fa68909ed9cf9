"""A tokenizer's special tokens by name, and around sequences."""

from __future__ import annotations

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization.vocabulary import Vocabulary


class SpecialTokens:
    """Each special token's name and id; None where the tokenizer has none."""

    vocabulary: Vocabulary
    # ids of bos_token and sep_token, which every sequence needs
    _edges: tuple[int | None, int | None]

    @property
    def unk_token(self) -> str | None:
        return self.vocabulary.name("unk_token")

    @property
    def bos_token(self) -> str | None:
        return self.vocabulary.name("bos_token")

    @property
    def eos_token(self) -> str | None:
        return self.vocabulary.name("eos_token")

    @property
    def sep_token(self) -> str | None:
        return self.vocabulary.name("sep_token")

    @property
    def pad_token(self) -> str | None:
        return self.vocabulary.name("pad_token")

    @property
    def cls_token(self) -> str | None:
        return self.vocabulary.name("cls_token")

    @property
    def mask_token(self) -> str | None:
        return self.vocabulary.name("mask_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._id_of(self.unk_token)

    @property
    def bos_token_id(self) -> int | None:
        return self._id_of(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        return self._id_of(self.eos_token)

    @property
    def sep_token_id(self) -> int | None:
        return self._id_of(self.sep_token)

    @property
    def pad_token_id(self) -> int | None:
        return self._id_of(self.pad_token)

    @property
    def cls_token_id(self) -> int | None:
        return self._id_of(self.cls_token)

    @property
    def mask_token_id(self) -> int | None:
        return self._id_of(self.mask_token)

    def _id_of(self, token: str | None) -> int | None:
        return None if token is None else self.vocabulary.id(token)

    @property
    def additional_special_tokens(self) -> list[str]:
        return [token if isinstance(token, str) else token.content for token in self.vocabulary.extra]

    @property
    def special_tokens_map(self) -> dict[str, str]:
        return {name: str(self.vocabulary.name(name)) for name in self.vocabulary.named}

    @property
    def all_special_tokens(self) -> list[str]:
        return self.vocabulary.special_tokens

    @property
    def all_special_ids(self) -> list[int]:
        return [self.vocabulary.id(token) for token in self.all_special_tokens]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """`<s> A </s>` or `<s> A </s> B </s>`. Raises `InputError` where there is no bos_token or sep_token."""
        bos, sep = self._edges
        if bos is None or sep is None:
            raise InputError("Special tokens need a bos_token and a sep_token; use add_special_tokens=False.")
        if token_ids_1 is None:
            return [bos, *token_ids_0, sep]
        return [bos, *token_ids_0, sep, *token_ids_1, sep]

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        return 3 if pair else 2

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for `<s> A </s>`, 1 for `B </s>`. In XLM these index the word embeddings."""
        return [0] * (len(token_ids_0) + 2) + ([] if token_ids_1 is None else [1] * (len(token_ids_1) + 1))

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
        second = [] if token_ids_1 is None else [0] * len(token_ids_1) + [1]
        return [1] + [0] * len(token_ids_0) + [1] + second
