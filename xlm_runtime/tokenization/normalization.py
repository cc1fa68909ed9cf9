"""Punctuation normalisation, removal of what does not print, Romanian, lower-casing and accents.

Each step follows the published Moses or XLM script, in the form in which sacremoses 0.2 and transformers 5 apply
it. Every step exists for plain text and for `AlignedText`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from xlm_runtime.tokenization.alignment import AlignedText, Rewrite

Match = tuple[int, int, tuple[tuple[int, int], ...]]

# replace-unicode-punctuation.perl: one character for one, in any order
_UNICODE_PUNCTUATION = {
    '"': "”“《》」「",
    ",": "，、",
    ":": "∶：",
    "?": "？",
    "!": "！",
    ";": "；",
    "(": "（",
    ")": "）",
    "[": "【",
    "]": "】",
    "<": "〈",
    ">": "〉",
    "~": "～",
    "'": "’",
    "-": "━",
    "%": "％",
}
_PUNCTUATION_MAP: dict[int, str] = {ord(char): new for new, chars in _UNICODE_PUNCTUATION.items() for char in chars}
_PUNCTUATION_MAP |= {ord("０") + digit: str(digit) for digit in range(10)}


class _KnownCharacters(dict[int, str | int]):
    """`_PUNCTUATION_MAP`, and up to 8,192 characters that stay: `str.translate` is slow where it finds nothing."""

    def __missing__(self, code: int) -> int:
        if len(self) >= 8192:
            self.clear()
            self.update(_PUNCTUATION_MAP)
        self[code] = code
        return code


_known_characters = _KnownCharacters(_PUNCTUATION_MAP)
_PUNCTUATION_TRIGGER = re.compile("[" + "".join(map(chr, _PUNCTUATION_MAP)) + "。．…]")


def _literal(old: str, new: str) -> Rewrite:
    return Rewrite(old, re.compile(re.escape(old)), (new,) if new else ())


def _regex(needle: str, pattern: str, *template: str | int, exchange: int = 0) -> Rewrite:
    return Rewrite(needle, re.compile(pattern), template, exchange)


_FULL_STOPS = (_regex("。", r"。\s*", ". "), _regex("．", r"．\s*", ". "), _literal("…", "..."))
_SPACES = _regex("  ", " +", " ")

# normalize-punctuation.perl, in its order
_COMMON = (
    _literal("\r", ""),
    _literal("(", " ("),
    _literal(")", ") "),
    _SPACES,
    _regex(") ", r"\) ([.!:?;,])", ")", 1),
    _literal("( ", "("),
    _literal(" )", ")"),
    _regex(" %", r"(\d) %", 1, "%"),
    _literal(" :", ":"),
    _literal(" ;", ";"),
    _literal("`", "'"),
    _literal("''", ' " '),
    _literal("„", '"'),
    _literal("“", '"'),
    _literal("”", '"'),
    _literal("–", "-"),
    _literal("—", " - "),
    _SPACES,
    _literal("´", "'"),
    _regex("‘", "([a-zA-Z])‘([a-zA-Z])", 1, "'", 2),
    _regex("’", "([a-zA-Z])’([a-zA-Z])", 1, "'", 2),
    _literal("‘", "'"),
    _literal("‚", "'"),
    _literal("’", "'"),
    _literal("''", '"'),
    _literal("…", "..."),
    _literal("\u00a0«\u00a0", '"'),
    _literal("«\u00a0", '"'),
    _literal("«", '"'),
    _literal("\u00a0»\u00a0", '"'),
    _literal("\u00a0»", '"'),
    _literal("»", '"'),
    _literal("\u00a0%", "%"),
    _literal("nº\u00a0", "nº "),
    _literal("\u00a0:", ":"),
    _literal("\u00a0ºC", " ºC"),
    _literal("\u00a0cm", " cm"),
    _literal("\u00a0?", "?"),
    _literal("\u00a0!", "!"),
    _literal("\u00a0;", ";"),
    _literal(",\u00a0", ", "),
    _SPACES,
)


def _dots_before_quotes(text: str) -> list[Match]:
    """Matches of `(\\.+)"(\\s*[^<])`, found from the quotes: the pattern itself takes quadratic time on dots."""
    found: list[Match] = []
    done = 0
    quote = text.find('"')
    while quote >= 0:
        start = quote
        while start > done and text[start - 1] == ".":
            start -= 1
        stop = quote + 1
        if start < quote:
            while stop < len(text) and text[stop].isspace():
                stop += 1
            if stop < len(text) and text[stop] != "<":
                stop += 1
            if stop > quote + 1:
                found.append((start, stop, ((start, quote), (quote + 1, stop))))
                done = stop
        quote = text.find('"', max(quote + 1, done))
    return found


_ENGLISH_QUOTES = (_regex('"', '"([,.]+)', 1, '"', exchange=2),)
_EUROPEAN_QUOTES = (
    Rewrite(',"', re.compile(',"'), ('",',)),
    Rewrite('."', re.compile(r'(\.+)"(\s*[^<])'), ('"', 1, 2), exchange=2, find=_dots_before_quotes),
)
_NBSP_COMMA = (_regex("\u00a0", "(\\d)\u00a0(\\d)", 1, ",", 2),)
_NBSP_POINT = (_regex("\u00a0", "(\\d)\u00a0(\\d)", 1, ".", 2),)

_TRIGGER = re.compile("[\r()%:;`'„“”–—´‘‚’…«»\u00a0\"]|  ")

_ROMANIAN = {
    ord(old): new
    for new, chars in {"S": "ŞȘ", "s": "şș", "T": "ŢȚ", "t": "ţț", "A": "ĂÂ", "a": "ăâ", "I": "Î", "i": "î"}.items()
    for old in chars
}


class PunctuationNormalizer:
    """Unicode punctuation, Moses punctuation and non-printing characters for one language."""

    def __init__(self, lang: str) -> None:
        rules = list(_COMMON)
        if lang == "en":
            rules += _ENGLISH_QUOTES
        elif lang in ("de", "es", "fr"):
            rules += _EUROPEAN_QUOTES
        rules += _NBSP_COMMA if lang in ("de", "es", "cz", "cs", "fr") else _NBSP_POINT
        self._rules = tuple(rules)

    def plain(self, text: str) -> str:
        if not text.isascii() and _PUNCTUATION_TRIGGER.search(text):
            text = text.translate(_known_characters)
            for rule in _FULL_STOPS:
                text = rule.plain(text)
        if _TRIGGER.search(text):
            for rule in self._rules:
                if rule.needle in text:
                    text = rule.plain(text)
        text = text.strip()
        if text.isprintable():
            return text
        return "".join([char for char in text if _printing(char)])

    def leaves_letters(self, letters: str) -> bool:
        """Whether letters and digits stay as they are: none is full-width, none is unknown to this Python."""
        return letters.isascii() or (letters.isprintable() and not _PUNCTUATION_TRIGGER.search(letters))

    def aligned(self, source: AlignedText) -> AlignedText:
        if not source.text.isascii():
            source = source.translate(_PUNCTUATION_MAP)
            for rule in _FULL_STOPS:
                source = rule.aligned(source)
        for rule in self._rules:
            source = rule.aligned(source)
        source = source.strip()
        return source if source.text.isprintable() else source.filter(_printing)


# White space that `PunctuationNormalizer` deletes as it does not print: tabs, line ends, separators of records. Other
# line ends (U+2028) and spaces print, and Moses splits at them.
_DELETED_SPACE = re.compile("[\t-\r\x1c-\x1f\x85]")


def space_for_deleted(text: str) -> str:
    """The text with a space for each white space that normalisation would delete, and with it the gap between words."""
    return text if text.isprintable() else _DELETED_SPACE.sub(" ", text)


@lru_cache(maxsize=4096)
def _printing(char: str) -> bool:
    return unicodedata.category(char)[0] != "C"


def romanian(text: str) -> str:
    """Cedillas to commas below, then letters without their marks (Sennrich's WMT16 scripts). Keeps every position."""
    return text.translate(_ROMANIAN)


def fold(word: str) -> str:
    """Lower-cased and without accents: canonical decomposition, without its non-spacing marks."""
    if word.isascii():
        return word.lower()
    kept = "".join(map(_unmarked.__getitem__, word.lower()))
    return (kept if kept.isalnum() else _in_canonical_order(kept)).lower()


class _Unmarked(dict[str, str]):
    """Character → its canonical decomposition without non-spacing marks. Holds at most 8,192 characters."""

    def __missing__(self, char: str) -> str:
        if len(self) >= 8192:
            self.clear()
        parts = unicodedata.normalize("NFD", char)
        kept = self[char] = "".join([part for part in parts if unicodedata.category(part) != "Mn"])
        return kept


_unmarked = _Unmarked()


def _in_canonical_order(text: str) -> str:
    """Decomposed characters in the order that `unicodedata.normalize` would give them, in quadratic time."""
    return text if unicodedata.is_normalized("NFD", text) else in_canonical_order(text)


def in_canonical_order(text: str) -> str:
    """Combining characters in the order of their classes, run by run."""
    return "".join([part for part, _, _ in _canonical_order([(char, 0, 0) for char in text])])


def lower_aligned(source: AlignedText) -> AlignedText:
    """`str.lower`, with each character's span."""
    # a letter's small form may depend on its neighbours (final sigma), its length does not
    lengths = [len(char.lower()) for char in source.text]
    begin = [at for at, length in zip(source.begin, lengths, strict=True) for _ in range(length)]
    end = [at for at, length in zip(source.end, lengths, strict=True) for _ in range(length)]
    return AlignedText(source.text.lower(), begin, end)


def fold_aligned(word: AlignedText) -> AlignedText:
    """`fold`, with each character's span. A mark that goes widens the span of the letter that carried it."""
    expected = fold(word.text)
    small = word.text.lower()
    each = list(map(_unmarked.__getitem__, small))
    if len(word.text) == len(small) == len(expected) and set(map(len, each)) == {1} and "".join(each).isalnum():
        return AlignedText(expected, word.begin, word.end)
    lowered = lower_aligned(word)
    decomposed: list[tuple[str, int, int]] = []
    for part, start, stop in zip(lowered.text, lowered.begin, lowered.end, strict=True):
        decomposed += [(piece, start, stop) for piece in unicodedata.normalize("NFD", part)]
    kept: list[tuple[str, int, int]] = []
    for part, start, stop in _canonical_order(decomposed):
        if unicodedata.category(part) != "Mn":
            kept.append((part, start, stop))
        elif kept:
            kept[-1] = (kept[-1][0], kept[-1][1], max(kept[-1][2], stop))
    if "".join([part for part, _, _ in kept]).lower() != expected:
        start, stop = word.span()
        return AlignedText(expected, [start] * len(expected), [stop] * len(expected))
    return AlignedText(expected, [start for _, start, _ in kept], [stop for _, _, stop in kept])


def _canonical_order(parts: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Sort each run of combining characters by combining class, as normalisation of the whole word does."""
    result: list[tuple[str, int, int]] = []
    run: list[tuple[str, int, int]] = []
    for part in parts:
        if unicodedata.combining(part[0]):
            run.append(part)
            continue
        result += sorted(run, key=lambda item: unicodedata.combining(item[0]))
        run = []
        result.append(part)
    return result + sorted(run, key=lambda item: unicodedata.combining(item[0]))
