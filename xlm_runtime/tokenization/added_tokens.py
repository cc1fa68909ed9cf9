"""Finds special and added tokens in a text before it is tokenised."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from xlm_runtime.tokenization.vocabulary import AddedToken


@dataclass
class Segment:
    """A part of a text: either one added token (`token` set) or text to tokenise.

    `origin[i]` is the index in the whole text of character `i`; None where it is `start + i`.
    """

    text: str
    start: int
    token: str | None = None
    origin: list[int] | None = None

    def origins(self) -> list[int]:
        return self.origin if self.origin is not None else list(range(self.start, self.start + len(self.text)))

    def __add__(self, other: Segment) -> Segment:
        if self.origin is None and other.origin is None and self.start + len(self.text) == other.start:
            return Segment(self.text + other.text, self.start)
        return Segment(self.text + other.text, self.start, None, self.origins() + other.origins())

    def lstrip(self) -> Segment:
        text = self.text.lstrip()
        cut = len(self.text) - len(text)
        token = None if cut else self.token
        return Segment(text, self.start + cut, token, self.origin[cut:] if self.origin is not None else None)

    def rstrip(self) -> Segment:
        text = self.text.rstrip()
        token = self.token if text == self.text else None
        return Segment(text, self.start, token, self.origin[: len(text)] if self.origin is not None else None)


class TokenSplitter:
    """Cuts a text at added tokens, the leftmost first and of those the longest.

    Args:
        tokens: the added tokens by their spelling.
        aliases: other spellings → tokens.

    Attributes:
        needle: a character that every added token begins with, so that most texts need no search; empty where they
            begin differently.
        search: finds the first added token of a text; None where it has none.
    """

    def __init__(self, tokens: Mapping[str, AddedToken], aliases: Mapping[str, str]) -> None:
        self._tokens = dict(tokens)
        self._aliases = dict(aliases)
        spellings = sorted({*tokens, *aliases}, key=len, reverse=True)
        # without spellings: what no text matches, found out at its end
        self._pattern = re.compile("|".join(map(re.escape, spellings)) if spellings else r"\Z(?!)")
        firsts = {spelling[0] for spelling in spellings}
        self.needle = firsts.pop() if len(firsts) == 1 else ""
        self._plain = not any(token.lstrip or token.rstrip or token.single_word for token in tokens.values())
        self.search = self._pattern.search

    def split(self, text: str) -> list[Segment]:
        """The text's segments, none of them empty."""
        if self.needle not in text or self.search(text) is None:
            return [Segment(text, 0)] if text else []
        segments: list[Segment] = []
        done = 0
        for match in self._pattern.finditer(text):
            if match.start() > done:
                segments.append(Segment(text[done : match.start()], done))
            found = match.group()
            segments.append(Segment(found, match.start(), self._aliases.get(found, found)))
            done = match.end()
        if done < len(text):
            segments.append(Segment(text[done:], done))
        if not self._plain:
            self._adjust(segments)
        return [segment for segment in segments if segment.text]

    def _adjust(self, segments: list[Segment]) -> None:
        """White space beside tokens, and tokens that may not be part of a word, in Hugging Face's order."""
        for i, segment in enumerate(segments):
            token = self._tokens.get(segment.token) if segment.token is not None else None
            if token is None:
                continue
            left = segments[i - 1] if i else None
            right = segments[i + 1] if i + 1 < len(segments) else None
            if token.rstrip and right and right.text:
                segments[i + 1] = right.lstrip()
            if token.lstrip and left and left.text:
                segments[i - 1] = left.rstrip()
            if token.single_word:
                empty = Segment("", segment.start)
                if left and left.text and left.text[-1] != " ":
                    segments[i - 1] += segment
                    segments[i] = empty
                elif right and right.text and right.text[0] != " ":
                    segments[i + 1] = segment + segments[i + 1]
                    segments[i] = empty
