"""Text that remembers where each of its characters came from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class AlignedText:
    """A text derived from an original one.

    `begin[i]:end[i]` is the span, in code points of the original, that character `i` stands for. Both lists
    have the length of `text` and never decrease, so the span of a slice is `begin[first]:end[last]`.
    """

    text: str
    begin: list[int]
    end: list[int]

    @classmethod
    def identity(cls, text: str, offset: int = 0) -> AlignedText:
        """The original itself; `offset` is where it starts in a longer one."""
        return cls(text, list(range(offset, offset + len(text))), list(range(offset + 1, offset + len(text) + 1)))

    def slice(self, start: int, stop: int) -> AlignedText:
        return AlignedText(self.text[start:stop], self.begin[start:stop], self.end[start:stop])

    def span(self) -> tuple[int, int]:
        """The original's span under the whole text; the text must not be empty."""
        return self.begin[0], self.end[-1]

    def strip(self) -> AlignedText:
        start = len(self.text) - len(self.text.lstrip())
        return self.slice(start, max(start, len(self.text.rstrip())))

    def filter(self, keep: Callable[[str], bool]) -> AlignedText:
        """Without the characters that `keep` refuses."""
        kept = [i for i, char in enumerate(self.text) if keep(char)]
        return AlignedText(
            "".join([self.text[i] for i in kept]), [self.begin[i] for i in kept], [self.end[i] for i in kept]
        )

    def translate(self, table: dict[int, str]) -> AlignedText:
        """One character for one; anything else would move the alignment."""
        return AlignedText(self.text.translate(table), self.begin, self.end)


@dataclass(frozen=True)
class Rewrite:
    """One substitution rule: `pattern` → `template`, on plain text or on aligned text.

    `template` holds literal characters and group references as integers. `needle` is a string without which the
    pattern cannot match, so that most rules cost one search for a substring. `exchange` counts the leading template
    items that swap places: they share one span, since spans of their own would run backwards.
    """

    needle: str
    pattern: re.Pattern[str]
    template: tuple[str | int, ...]
    exchange: int = 0
    find: Callable[[str], list[tuple[int, int, tuple[tuple[int, int], ...]]]] | None = None

    def matches(self, text: str) -> list[tuple[int, int, tuple[tuple[int, int], ...]]]:
        """(start, end, spans of the groups 1, 2, ...) of every match, left to right, none overlapping."""
        if self.find is not None:
            return self.find(text)
        groups = range(1, self.pattern.groups + 1)
        return [(m.start(), m.end(), tuple(m.span(g) for g in groups)) for m in self.pattern.finditer(text)]

    def plain(self, text: str) -> str:
        if self.needle not in text:
            return text
        if self.find is None:
            return self.pattern.sub(self.replacement, text)
        parts: list[str] = []
        done = 0
        for start, end, groups in self.find(text):
            parts.append(text[done:start])
            for item in self.template:
                parts.append(item if isinstance(item, str) else text[slice(*groups[item - 1])])
            done = end
        parts.append(text[done:])
        return "".join(parts)

    @cached_property
    def replacement(self) -> str:
        """The template as `re` writes it. No literal of ours holds a backslash."""
        return "".join([item if isinstance(item, str) else f"\\g<{item}>" for item in self.template])

    def aligned(self, source: AlignedText) -> AlignedText:
        if self.needle not in source.text:
            return source
        text: list[str] = []
        begin: list[int] = []
        end: list[int] = []

        def copy(start: int, stop: int) -> None:
            text.append(source.text[start:stop])
            begin.extend(source.begin[start:stop])
            end.extend(source.end[start:stop])

        done = 0
        for start, stop, groups in self.matches(source.text):
            copy(done, start)
            done = stop
            mark = shared = len(begin)
            literal = _literal_span(source, start, stop, groups)
            for count, item in enumerate(self.template, start=1):
                if isinstance(item, int):
                    copy(*groups[item - 1])
                else:
                    text.append(item)
                    begin.extend([literal[0]] * len(item))
                    end.extend([literal[1]] * len(item))
                if count == self.exchange:
                    shared = len(begin)
            if shared > mark:
                begin[mark:shared] = [min(begin[mark:shared])] * (shared - mark)
                end[mark:shared] = [max(end[mark:shared])] * (shared - mark)
        copy(done, len(source.text))
        return _ordered(AlignedText("".join(text), begin, end))


def _literal_span(source: AlignedText, start: int, stop: int, groups: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The span that a rule's literal characters stand for: what the match holds outside its groups, without the
    white space around it."""
    loose = [i for i in range(start, stop) if not any(a <= i < b for a, b in groups)]
    solid = [i for i in loose if not source.text[i].isspace()] or loose or [start]
    return source.begin[solid[0]], source.end[solid[-1]]


def _ordered(source: AlignedText) -> AlignedText:
    """Spans that never run backwards: a literal space put before or after a group may otherwise overtake it."""
    begin, end = source.begin, source.end
    for i in range(len(begin) - 2, -1, -1):
        if begin[i] > begin[i + 1]:
            begin[i] = begin[i + 1]
    for i in range(1, len(end)):
        if end[i] < end[i - 1]:
            end[i] = end[i - 1]
    return source


def align_words(words: Sequence[str], source: AlignedText) -> list[AlignedText]:
    """Find words in the text that they were split from.

    A word splitter only adds boundaries, so the words' characters follow each other in `source`, white space
    aside. The one exception, sacremoses's marker for a run of dots when a text spells it out, is undone here too.
    Where nothing fits, a word stands for all that is left; this never happens with the splitters in use.
    """
    found: list[AlignedText] = []
    text, at = source.text, 0
    for word in words:
        while at < len(text) and text[at].isspace() and not word[:1].isspace():
            at += 1
        if text.startswith(word, at):
            found.append(source.slice(at, at + len(word)))
            at += len(word)
            continue
        index: list[tuple[int, int]] = []
        for char in word:
            step = at
            while step < len(text) and text[step].isspace() and not char.isspace():
                step += 1
            if step < len(text) and text[step] == char:
                index.append((step, step))
                at = step + 1
                continue
            if char == "." and text.startswith("DOT", step):
                last = step + 2
                if text.startswith("MULTI", last + 1):
                    last += 5
                index.append((step, last))
                at = last + 1
                continue
            step = text.find(char, at)
            if step < 0:
                step = min(at, len(text) - 1)
            index.append((step, step))
            at = step + 1
        found.append(AlignedText(word, [source.begin[a] for a, _ in index], [source.end[b] for _, b in index]))
    return found
