"""The fast path: a text as pieces whose tokens can be remembered.

A piece lies between two spaces (or beside a Chinese character, which Moses always sets apart). Its tokens follow from
its own characters, except where a rule looks over the space. Those rules are few:

- the normaliser takes the space before `: ; ) %` and after `(`, and moves `. , ! ?` back to a `)`; it drops control
  characters and treats other white space as part of a rule: such pieces are *glued* to their neighbour;
- an apostrophe at a piece's end may use up the space that an apostrophe at the next one's start needs: glued too;
- Moses splits off a period depending on whether the next word starts small, with a digit, or otherwise;
- commas and apostrophes at a text's very start, and quotes and apostrophes at its very end, have no neighbour.

So a piece's entry is either a tuple of ids or a `Contextual`, whose ids are remembered for each context it was met in.
Each is made by the exact pipeline, run on the piece between two neutral words; or, for a word of letters and digits
with at most a mark before and one behind it, by `_marked_word`, which knows what the pipeline makes of those.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple, TypeVar

from xlm_runtime.tokenization.rotating_cache import CacheMemory, RotatingCache
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
# Marks that become a word of their own beside a word of letters, whatever stands around, and that word. (What they do
# to their neighbours, `_left` and `_right` say.)
_QUOTE_WORDS = dict.fromkeys('"„“”«»', '"')
_BEFORE_WORD = {char: char for char in "([$#¿¡€£"} | _QUOTE_WORDS
_AFTER_WORD = {char: char for char in ",?!:;)]%€،؟؛"} | _QUOTE_WORDS


class Contextual(NamedTuple):
    """A piece whose ids depend on where it stands; `left` and `right` say how its edges act."""

    left: int
    right: int


Entry = Ids | Contextual


class PieceEncoder:
    """Ids of texts in one language that Moses splits.

    Args:
        pipeline: makes the words of a piece.
        word_ids: maps a word to its tokens' ids.
        memory: holds what is remembered.
    """

    def __init__(self, pipeline: WordPipeline, word_ids: Callable[[str], Ids], memory: CacheMemory) -> None:
        if pipeline.moses is None:
            raise ValueError(f"language '{pipeline.lang}' is not split by Moses")
        self._pipeline = pipeline
        self._moses = pipeline.moses
        self._word_ids = word_ids
        self._words: RotatingCache[str, Ids] = RotatingCache(word_ids, memory)
        alone = _HAN if self._moses.keeps_hangul else _HAN + _HANGUL
        self._alone = re.compile(f"[{alone}]")
        self._runs = re.compile(f"[{alone}]+|[^{alone}]+")
        self._entries: RotatingCache[str, Entry] = RotatingCache(self._build, memory)
        self._between: RotatingCache[str, Ids] = RotatingCache(lambda piece: self._run((piece, 0)), memory)
        self._variants: RotatingCache[tuple[str, int], Ids] = RotatingCache(self._run, memory, nested=True)
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
            return list(chain.from_iterable(entries))
        lead = next((i for i, atom in enumerate(atoms) if atom), len(atoms))
        result: list[int] = []
        done = 0
        for i in special:
            if i < done:
                continue
            first, last = self._glue(atoms, entries, beside, i, done)
            result.extend(chain.from_iterable(entries[done:first]))
            key = atoms[i] if first == last else " ".join([atom for atom in atoms[first : last + 1] if atom])
            result.extend(self._variants[key, self._context(atoms, first, last, lead)])
            done = last + 1
        result.extend(chain.from_iterable(entries[done:]))
        return result

    def cache_sizes(self) -> dict[str, int]:
        """How many entries each cache holds."""
        return {
            "pieces": self._entries.size(),
            "contexts": self._variants.size(),
            "words": self._words.size(),
            "characters": self._between.size(),
        }

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
            parts = self._parts(atom)
            first, last = parts[0], parts[-1]
            result.append(first)
            beside.append(False)
            entries.append(entry(first))
            if len(parts) > 2:
                result.append(atom[len(first) : len(atom) - len(last)])
                beside.append(True)
                entries.append(tuple(chain.from_iterable(map(between, parts[1:-1]))))
            if len(parts) > 1:
                result.append(last)
                beside.append(True)
                entries.append(entry(last))
        return result, beside, entries

    def _split_alone(self, atoms: list[str]) -> tuple[list[str], list[bool]]:
        """Cut pieces beside characters that stand alone. The second list says where no space precedes a piece."""
        result: list[str] = []
        beside: list[bool] = []
        for atom in atoms:
            parts = self._parts(atom)
            result += parts
            beside.append(False)
            beside += [True] * (len(parts) - 1)
        return result, beside

    def _parts(self, atom: str) -> list[str]:
        """The characters that stand alone, and what lies between them; at least one part."""
        runs = self._runs.findall(atom)
        alone = self._alone.match(atom) is not None
        if len(runs) < 2 and not alone:
            return [atom]
        parts: list[str] = []
        for run in runs:
            if alone:
                parts.extend(run)
            else:
                parts.append(run)
            alone = not alone
        return parts

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
            folded = self._pipeline.fold_word(word)
            return self._word_ids(piece) if folded == piece else self._ids_of_folded(folded)
        left, right = self._left(piece[0]), self._right(piece[-1])
        if left < 0 and right < 0:
            return self._run((piece, 0))
        return Contextual(max(left, 0), max(right, 0))

    def _left(self, char: str) -> int:
        """-1 where nothing to the left of this first character can matter, else how the edge acts."""
        if char.isalnum():
            return -1
        if char in _APOSTROPHES:
            return APOSTROPHE
        if char in _STICKS_LEFT or _vanishes(char):
            return GLUED
        return 0 if char in _QUOTES else -1

    def _right(self, char: str) -> int:
        if char.isalnum():
            return -1
        if char in _APOSTROPHES:
            return APOSTROPHE
        if char in _STICKS_RIGHT or _vanishes(char):
            return GLUED
        return 0 if char in _QUOTES or char in _FULL_STOPS else -1

    def _run(self, key: tuple[str, int]) -> Ids:
        """The ids of a piece in a context."""
        piece, context = key
        ids = self._marked_word(piece, context)
        if ids is not None:
            return ids
        before, after = neighbours(context)
        return self._ids_of(without_neighbours(self._pipeline.raw_words(before + piece + after), before, after))

    def _marked_word(self, piece: str, context: int) -> Ids | None:
        """The ids of a simple word with at most a mark before and one behind it, or of a character that stands alone;
        None for other pieces."""
        before, after = _BEFORE_WORD.get(piece[0]), _AFTER_WORD.get(piece[-1])
        stops = piece[-1] == "."
        word = self._pipeline.simple_word(piece[before is not None : len(piece) - (stops or after is not None)])
        if word is None:
            alone = len(piece) == 1 and self._alone.match(piece) and self._pipeline.normalizer.leaves_letters(piece)
            return self._ids_of_word(piece) if alone else None
        if stops and self._moses.keeps_period(word, neighbours(context)[1].strip()):
            word += "."
        elif stops:
            after = "."
        ids = self._ids_of_word(word)
        if before is not None:
            ids = self._words[before] + ids
        return ids if after is None else ids + self._words[after]

    def _ids_of(self, raw_words: list[str]) -> Ids:
        if len(raw_words) == 1:
            return self._ids_of_word(raw_words[0])
        return tuple(chain.from_iterable(map(self._words.__getitem__, self._pipeline.fold(raw_words))))

    def _ids_of_word(self, raw_word: str) -> Ids:
        return self._ids_of_folded(self._pipeline.fold_word(raw_word))

    def _ids_of_folded(self, word: str) -> Ids:
        """The ids of what folding made of a word: mostly one word, but it may be none or several."""
        if not word or " " in word:
            return tuple(chain.from_iterable(map(self._words.__getitem__, filter(None, word.split(" ")))))
        known = self._entries.get(word)
        if known.__class__ is tuple and self._pipeline.simple_word(word) == word:
            return known  # a piece that is this word
        return self._words[word]


def neighbours(context: int) -> tuple[str, str]:
    """What stands before and after a piece in a context, as neutral words."""
    return "" if context >= 5 else "x ", _RIGHT[context % 5]


def without_neighbours(words: list[T], before: str, after: str) -> list[T]:
    """The words of a piece that was split between `before` and `after`."""
    return words[1 if before else 0 : len(words) - 1 if after.strip() else len(words)]


def _vanishes(char: str) -> bool:
    """Control characters, which are removed, and white space other than the space."""
    return char.isspace() or unicodedata.category(char)[0] == "C"
