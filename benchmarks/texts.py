"""Texts with exactly so many tokens, special ones included, in any vocabulary."""

from __future__ import annotations

import re
from string import ascii_lowercase

import numpy as np

from xlm_runtime.tokenization import XLMTokenizer

WORDS = 3000
LONGEST_WORD = 5  # tokens


class TextSampler:
    """Draws texts of space-separated words out of a tokenizer's vocabulary; words may have several tokens."""

    def __init__(self, tokenizer: XLMTokenizer, rng: np.random.Generator) -> None:
        whole = sorted(word[:-4] for word in tokenizer.get_vocab() if re.fullmatch(r"[a-z]{2,12}</w>", word))
        letters = list(ascii_lowercase)
        while len(whole) < WORDS:
            whole.append("".join(rng.choice(letters, int(rng.integers(2, LONGEST_WORD + 1)))))
        chosen = [whole[i] for i in rng.permutation(len(whole))[:WORDS]]
        self._tokenizer = tokenizer
        self._by_length: dict[int, list[str]] = {}
        for word in (*chosen, *letters):
            tokens = len(tokenizer.encode(word, add_special_tokens=False))
            if 1 <= tokens <= LONGEST_WORD:
                self._by_length.setdefault(tokens, []).append(word)
        if 1 not in self._by_length:
            raise ValueError("no word of this vocabulary is one token; texts of a given length cannot be made")
        self._special = tokenizer.num_special_tokens_to_add(False)

    def draw(self, tokens: int, rng: np.random.Generator) -> str:
        """A text of `tokens` tokens.

        Raises:
            ValueError: the tokenizer reads the text otherwise than word by word.
        """
        words: list[str] = []
        rest = tokens - self._special
        while rest > 0:
            fitting = [length for length in self._by_length if length <= rest]
            length = fitting[int(rng.integers(len(fitting)))]
            among = self._by_length[length]
            words.append(among[int(rng.integers(len(among)))])
            rest -= length
        text = " ".join(words)
        found = len(self._tokenizer(text)["input_ids"])
        if found != tokens:
            raise ValueError(f"a text of {tokens} tokens was made, but the tokenizer gives {found}: {text[:200]}")
        return text
