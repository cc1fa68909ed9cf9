"""Token ids with their spans and words: what one text gives, with or without special tokens around it."""

from __future__ import annotations

from typing import Any, NamedTuple


class TokenRow(NamedTuple):
    """Token ids, and when asked for each token's span and word.

    Attributes:
        ids: one for each token.
        spans: (start, end) of each token in code points of its text, (0, 0) for special tokens around texts.
        words: the number of each token's word in its text, None for special tokens around texts.
        second: the place of the first token of a pair's second text.
    """

    ids: list[int]
    spans: list[tuple[int, int]] | None = None
    words: list[int | None] | None = None
    second: int | None = None

    def cut(self, kept: tuple[int, int]) -> TokenRow:
        """The tokens of a range."""
        part = slice(*kept)
        spans, words = self.spans, self.words
        return TokenRow(self.ids[part], None if spans is None else spans[part], None if words is None else words[part])


def surround(edge: object, first: list[Any], second: list[Any] | None) -> list[Any]:
    """What a row holds of its first and second sequence, with `edge` in place of each special token around them."""
    if second is None:
        return [edge, *first, edge]
    return [edge, *first, edge, *second, edge]
