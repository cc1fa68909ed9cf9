"""The fast path: a text as pieces whose tokens can be remembered.

A piece lies between two spaces (or beside a Chinese character, which Moses always sets apart). Its tokens follow from
its own characters, except where a rule looks over the space. Those rules are few:

- the normaliser takes the space before `: ; ) %` and after `(`, and moves `. , ! ?` back to a `)`; it drops control
  characters and treats other white space as part of a rule: such pieces are *glued* to their neighbour;
- an apostrophe at a piece's end may use up the space that an apostrophe at the next one's start needs: glued too;
- Moses splits off a period depending on whether the next word starts small, with a digit, or otherwise;
- commas and apostrophes at a text's very start, and quotes and apostrophes at its very end, have no neighbour.

So a piece's entry is either a tuple of ids or a `Contextual`, which holds ids for each context it was met in. Each is
made by the exact pipeline, run on the piece between two neutral words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TypeVar

from xlm_runtime.tokenization.rotating_cache import RotatingCache
from xlm_runtime.tokenization.words import WordPipeline

T = TypeVar("T")
Ids = tuple[int, ...]

GLUED, APOSTROPHE = 1, 2
# what follows a piece: a word of the classes 0, 1, 2 of MosesTokenizer.next_class, nothing, or only spaces
END, END_SPACES = 3, 4
_RIGHT = (" X", " x", " 5", "", " ")

_APOSTROPHES = frozenset("'`´‘‚’")
_QUOTES = frozenset('"„“”«»《》」「')
_STICKS_LEFT = frozenset(":;)%.,!?∶：；）％。．，、！？…")
_STICKS_RIGHT = frozenset("(（")
_FULL_STOPS = frozenset(".。．…")
# these stand alone for every language whose letters do not include them
_HAN = "\u3400-\u4db5\u4e00-\u9fef"
_HANGUL = "\uac00-\ud7a3"


class Contextual:
    """A piece whose ids depend on where it stands; `left` and `right` say how its edges act."""

    __slots__ = ("left", "right", "variants")

    def __init__(self, left: int, right: int) -> None:
        self.left = left
        self.right = right
        self.variants: dict[int, Ids] = {}


Entry = Ids | Contextual


class PieceEncoder:
    """Ids of texts in one language that Moses splits.

    Args:
        pipeline: makes the words of a piece.
        word_ids: maps a word to its tokens' ids.
        cache_entries: pieces that are remembered, see `RotatingCache`.
        cache_key_length: characters of the longest piece that is remembered.
    """

    def __init__(
        self, pipeline: WordPipeline, word_ids: Callable[[str], Ids], cache_entries: int, cache_key_length: int
    ) -> None:
        if pipeline.moses is None:
            raise ValueError(f"language '{pipeline.lang}' is not split by Moses")
        self._pipeline = pipeline
        self._moses = pipeline.moses
        self._word_ids = word_ids
        alone = _HAN if self._moses.keeps_hangul else _HAN + _HANGUL
        self._alone = re.compile(f"[{alone}]")
        self._alone_split = re.compile(f"[{alone}]|[^{alone}]+")
        self._entries: RotatingCache[str, Entry] = RotatingCache(self._build, cache_entries, cache_key_length)
        self._between: RotatingCache[str, Ids] = RotatingCache(
            lambda piece: self._run(piece, 0), cache_entries // 4, cache_key_length
        )
        self._key_length = cache_key_length
        self._classes: dict[str, int] = {}

    def ids(self, text: str) -> list[int]:
        """The ids of a text."""
        atoms: list[str] = text.split(" ")
        beside: list[bool] | None = None
        if not text.isascii() and self._alone.search(text):
            atoms, beside, entries = self._cut_alone(atoms)
        if beside is None:
            entries = list(map(self._entries.__getitem__, atoms))
        special = [i for i, entry in enumerate(entries) if entry.__class__ is not tuple]
        if not special:
            return list(chain.from_iterable(entries))  # type: ignore[arg-type]
        lead = next((i for i, atom in enumerate(atoms) if atom), len(atoms))
        result: list[int] = []
        done = 0
        for i in special:
            if i < done:
                continue
            first, last = self._glue(atoms, entries, beside, i, done)
            result.extend(chain.from_iterable(entries[done:first]))  # type: ignore[arg-type]
            key = atoms[i] if first == last else " ".join([atom for atom in atoms[first : last + 1] if atom])
            result.extend(self._variant(key, self._context(atoms, first, last, lead)))
            done = last + 1
        result.extend(chain.from_iterable(entries[done:]))  # type: ignore[arg-type]
        return result

    def cache_sizes(self) -> dict[str, int]:
        """How many entries each cache holds."""
        return {"pieces": self._entries.size(), "characters": self._between.size()}

    def contexts(self, text: str) -> Iterator[tuple[int, str, int]]:
        """(start, piece, context) of every piece of a text, glued ones as one; see `neighbours` for contexts."""
        atoms: list[str] = text.split(" ")
        beside: list[bool] | None = None
        if self._alone.search(text):
            atoms, beside = self._split_alone(atoms)
        starts = []
        at = 0
        for i, atom in enumerate(atoms):
            at += 1 if i and not (beside and beside[i]) else 0
            starts.append(at)
            at += len(atom)
        entries = list(map(self._entries.__getitem__, atoms))
        lead = next((i for i, atom in enumerate(atoms) if atom), len(atoms))
        done = 0
        special = [i for i, entry in enumerate(entries) if isinstance(entry, Contextual)]
        for i in [*special, len(atoms)]:
            if i < done:
                continue
            first, last = self._glue(atoms, entries, beside, i, done) if i < len(atoms) else (i, i)
            for j in range(done, first):
                if atoms[j]:
                    yield starts[j], atoms[j], 0
            if i < len(atoms):
                piece = text[starts[first] : starts[last] + len(atoms[last])]
                yield starts[first], piece, self._context(atoms, first, last, lead)
            done = last + 1

    def _cut_alone(self, atoms: list[str]) -> tuple[list[str], list[bool], list[Entry]]:
        """Like `_split_alone`, but what lies between a piece's ends is one piece more, whose entry is ready made:
        no rule looks over a character that stands alone, so its parts have the context 0."""
        result: list[str] = []
        beside: list[bool] = []
        entries: list[Entry] = []
        entry, between = self._entries.__getitem__, self._between.__getitem__
        for atom in atoms:
            parts = self._alone_split.findall(atom)
            if len(parts) < 2:
                result.append(atom)
                beside.append(False)
                entries.append(entry(atom))
                continue
            first, last = parts[0], parts[-1]
            if len(parts) > 2:
                result += (first, atom[len(first) : len(atom) - len(last)], last)
                beside += (False, True, True)
                inner = tuple(chain.from_iterable(map(between, parts[1:-1])))
                entries += (entry(first), inner, entry(last))
            else:
                result += parts
                beside += (False, True)
                entries += (entry(first), entry(last))
        return result, beside, entries

    def _split_alone(self, atoms: list[str]) -> tuple[list[str], list[bool]]:
        """Cut pieces beside characters that stand alone. The second list says where no space precedes a piece."""
        result: list[str] = []
        beside: list[bool] = []
        for atom in atoms:
            parts = self._alone_split.findall(atom) or [""]
            result += parts
            beside.append(False)
            beside += [True] * (len(parts) - 1)
        return result, beside

    def _glue(
        self, atoms: list[str], entries: list[Entry], beside: list[bool] | None, i: int, done: int
    ) -> tuple[int, int]:
        """The first and last piece that must be seen together with the contextual piece `i`."""
        entry = entries[i]
        first = last = i
        if isinstance(entry, Contextual) and entry.left & GLUED and not (beside and beside[i]):
            first = i - 1
            while first >= done and not atoms[first]:
                first -= 1
            first = first if first >= done else i
        while True:
            following = last + 1
            while following < len(atoms) and not atoms[following]:
                following += 1
            if following == len(atoms) or (beside and beside[following]):
                return first, last
            a, b = entries[last], entries[following]
            right = a.right if isinstance(a, Contextual) else 0
            left = b.left if isinstance(b, Contextual) else 0
            if not ((right | left) & GLUED or right & left):
                return first, last
            last = following

    def _context(self, atoms: list[str], first: int, last: int, lead: int) -> int:
        """0 to 4: what follows; 5 more at the start of the text, whose first piece is `lead`."""
        following = last + 1
        while following < len(atoms) and not atoms[following]:
            following += 1
        if following < len(atoms):
            after = self._class_of(atoms[following][0])
        else:
            after = END if following == last + 1 else END_SPACES
        return after + 5 if first <= lead else after

    def _class_of(self, char: str) -> int:
        known = self._classes.get(char)
        if known is None:
            words = self._pipeline.raw_words(char)
            known = self._moses.next_class(words[0]) if words else 0
            if len(self._classes) > 4096:
                self._classes.clear()
            self._classes[char] = known
        return known

    def _build(self, piece: str) -> Entry:
        if not piece:
            return ()
        word = self._pipeline.simple_word(piece)
        if word is not None:
            return self._ids_of([word])
        if piece[-1] == ",":
            word = self._pipeline.simple_word(piece[:-1])
            if word is not None:
                return self._ids_of([word, ","])
        left, right = self._left(piece[0]), self._right(piece[-1])
        if left < 0 and right < 0:
            return self._run(piece, 0)
        return Contextual(max(left, 0), max(right, 0))

    def _left(self, char: str) -> int:
        """-1 where nothing to the left of this first character can matter, else how the edge acts."""
        if char.isascii() and char.isalnum():
            return -1
        if char in _APOSTROPHES:
            return APOSTROPHE
        if char in _STICKS_LEFT or _vanishes(char):
            return GLUED
        return 0 if char in _QUOTES else -1

    def _right(self, char: str) -> int:
        if char.isascii() and char.isalnum():
            return -1
        if char in _APOSTROPHES:
            return APOSTROPHE
        if char in _STICKS_RIGHT or _vanishes(char):
            return GLUED
        return 0 if char in _QUOTES or char in _FULL_STOPS else -1

    def _variant(self, piece: str, context: int) -> Ids:
        if len(piece) > self._key_length:
            return self._run(piece, context)
        entry = self._entries[piece]
        if not isinstance(entry, Contextual):
            return entry
        ids = entry.variants.get(context)
        if ids is None:
            ids = entry.variants[context] = self._run(piece, context)
        return ids

    def _run(self, piece: str, context: int) -> Ids:
        before, after = neighbours(context)
        if piece[-1] == ".":
            word = self._pipeline.simple_word(piece[:-1])
            if word is not None:
                kept = self._moses.keeps_period(word, after.strip())
                return self._ids_of([word + "."] if kept else [word, "."])
        words = self._pipeline.raw_words(before + piece + after)
        return self._ids_of(without_neighbours(words, before, after))

    def _ids_of(self, raw_words: list[str]) -> Ids:
        words = self._pipeline.fold(raw_words)
        if len(words) == 1:
            return self._word_ids(words[0])
        return tuple(chain.from_iterable(map(self._word_ids, words)))


def neighbours(context: int) -> tuple[str, str]:
    """What stands before and after a piece in a context, as neutral words."""
    return "" if context >= 5 else "x ", _RIGHT[context % 5]


def without_neighbours(words: list[T], before: str, after: str) -> list[T]:
    """The words of a piece that was split between `before` and `after`."""
    return words[1 if before else 0 : len(words) - 1 if after.strip() else len(words)]


def _vanishes(char: str) -> bool:
    """Control characters, which are removed, and white space other than the space."""
    return char.isspace() or unicodedata.category(char)[0] == "C"
