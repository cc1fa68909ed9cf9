"""From ids to text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from xlm_runtime.tokenization.bpe import END_OF_WORD
from xlm_runtime.tokenization.vocabulary import Vocabulary

_BEFORE_MARKS = (" .", " ?", " !", " ,")
_BEFORE_CONTRACTIONS = (" n't", " 'm", " 's", " 've", " 're")


def decode(vocabulary: Vocabulary, ids: Any, skip_special_tokens: bool, clean_up: bool) -> str:
    """The text of an id, or of a sequence or array of ids."""
    text = join_tokens(read_tokens(vocabulary, ids, skip_special_tokens))
    return clean_up_spaces(text) if clean_up else text


def read_tokens(vocabulary: Vocabulary, ids: Any, skip_special_tokens: bool) -> list[str]:
    """The tokens of ids, `unk_token` for ids that no token has; of a single id its token, special or not."""
    if isinstance(ids, (int, np.integer)):
        return [vocabulary.token(int(ids))]
    skipped = set(vocabulary.all_special_ids) if skip_special_tokens else set()
    return [vocabulary.token(index) for index in map(int, ids) if index not in skipped]


def join_tokens(tokens: Iterable[str]) -> str:
    """Tokens as text, with a space between words."""
    return "".join(tokens).replace(END_OF_WORD, " ").strip()


def clean_up_spaces(text: str) -> str:
    """Take away the spaces before English punctuation and contractions."""
    for spaced in _BEFORE_MARKS:
        text = text.replace(spaced, spaced[1:])
    text = text.replace(" ' ", "'")
    for spaced in _BEFORE_CONTRACTIONS:
        text = text.replace(spaced, spaced[1:])
    return text
