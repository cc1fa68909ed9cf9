"""The Moses word tokeniser, as sacremoses 0.2 applies it without escaping, and the tables it reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from xlm_runtime.checked_json import MismatchError, check, flag, list_of, map_of, record, text, whole
from xlm_runtime.errors import BundleError, InputError

TABLES_FORMAT = 1
_WHITE_SPACE = re.compile(r"\s+")
_ASCII_JUNK = re.compile(r"[\x00-\x1f]")
_DOT_RUN = re.compile(r"\.{2,}")
# patterns, and what is put in place of what they match
Rules = tuple[tuple[re.Pattern[str], str], ...]


def _ranges(value: Any, where: str) -> None:
    """First and last code point of each range."""
    list_of(whole(0, 0x10FFFF))(value, where)
    if len(value) % 2 or any(first > last for first, last in zip(value[::2], value[1::2], strict=True)):
        raise MismatchError(value, where, "the first and last code point of each range")


def _class(value: Any, where: str) -> None:
    """Ranges of at least one character."""
    _ranges(value, where)
    list_of(whole(0, 0x10FFFF), 2)(value, where)


_LETTERS = record({"alnum": _ranges, "alpha": _ranges})
_PREFIXES = record({"nonbreaking": list_of(text), "numeric_only": list_of(text)})
_TABLES = record(
    {
        "classes": record({"alnum": _class, "alpha": _class, "lower": _class, "number": _class}),
        "extra_letters": map_of(text, _LETTERS),
        "prefixes": record({"en": _PREFIXES}),
        "languages": map_of(text, text),
        "every_language": flag,
    }
)
"""`moses.json` of this version."""


class MosesTables:
    """What `moses.json` holds: character classes, non-breaking prefixes, and which languages they were taken for.

    Classes are flat lists `[first, last, first, last, ...]` of code points, both ends included.

    Args:
        data: the contents of `moses.json`.

    Raises:
        BundleError: they are not what that file should hold.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        if data.get("format_version") != TABLES_FORMAT:
            raise BundleError(
                f"moses.json has format version {data.get('format_version')!r}; this release reads {TABLES_FORMAT}. "
                "Please export the bundle again."
            )
        check(data, _TABLES, "moses.json", "export the bundle again")
        self._classes: dict[str, list[int]] = data["classes"]
        self._extra: dict[str, dict[str, list[int]]] = data["extra_letters"]
        self._prefixes: dict[str, dict[str, list[str]]] = data["prefixes"]
        self._languages: dict[str, str] = data["languages"]
        for lang, source in self._languages.items():
            where = f"moses.json, the prefixes '{source}' of the language '{lang}',"
            check(self._prefixes.get(source), _PREFIXES, where, "export the bundle again")
        self._every_language: bool = data["every_language"]
        self._number = _pattern(self._classes["number"])
        self._lower = _pattern(self._classes["lower"])
        self.data = data

    @property
    def languages(self) -> list[str]:
        """Those that the tables were taken for."""
        return sorted(self._languages)

    def tokenizer(self, lang: str) -> MosesTokenizer:
        """The word tokeniser of a language.

        Raises:
            InputError: the tables hold nothing for it.
        """
        if lang not in self._languages and not self._every_language:
            raise InputError(
                f"moses.json holds no tables for language '{lang}', only for: {', '.join(self.languages)}. "
                "Export the bundle again with this language."
            )
        extra = self._extra.get(lang, {"alnum": [], "alpha": []})
        prefixes = self._prefixes[self._languages.get(lang, "en")]
        return MosesTokenizer(
            lang,
            kept=_pattern(self._classes["alnum"] + extra["alnum"]),
            alpha=_pattern(self._classes["alpha"]),
            extra_alpha=_pattern(extra["alpha"]),
            lower=self._lower,
            number=self._number,
            prefixes=prefixes["nonbreaking"],
            numeric_prefixes=prefixes["numeric_only"],
        )


class MosesTokenizer:
    """Splits normalised text into words. Boundaries are only ever added, apart from the marker of a run of dots.

    Args:
        kept: the letters and digits that are not set apart, as the inside of a regular expression's class; so are the
            next four.
        alpha: letters.
        extra_alpha: letters of this language alone.
        lower: small letters.
        number: digits.
        prefixes: words that keep their period.
        numeric_prefixes: words that keep it before a number.
    """

    def __init__(
        self,
        lang: str,
        *,
        kept: str,
        alpha: str,
        extra_alpha: str,
        lower: str,
        number: str,
        prefixes: Iterable[str],
        numeric_prefixes: Iterable[str],
    ) -> None:
        self.lang = lang
        self._classes = kept, alpha, extra_alpha, number
        self._simple = re.compile(f"[{kept}]+(?:-[{kept}]+)*|[0-9]+(?:[.,][0-9]+)*")
        self.keeps_hangul = self._simple.match("가") is not None
        self._lower = re.compile(f"[{lower}]")
        self._numeric_prefixes = frozenset(numeric_prefixes)
        self._prefixes = frozenset(prefixes) - self._numeric_prefixes

    # Each of these takes milliseconds to compile, and many texts need none of them.

    @cached_property
    def _apart(self) -> re.Pattern[str]:
        return re.compile(rf"([^{self._classes[0]}\s.'`,\-])")

    @cached_property
    def _any_alpha(self) -> re.Pattern[str]:
        _, alpha, extra_alpha, _ = self._classes
        return re.compile(f"[{alpha}{extra_alpha}]")

    @cached_property
    def _commas(self) -> Rules:
        *_, number = self._classes
        return (
            (re.compile(f"([^{number}]),"), r"\1 , "),
            (re.compile(f",([^{number}])"), r" , \1"),
            (re.compile(f"([{number}]),$"), r"\1 , "),
        )

    @cached_property
    def _apostrophes(self) -> Rules:
        _, alpha, _, number = self._classes
        if self.lang == "en":
            return (
                (re.compile(f"([^{alpha}])'([^{alpha}])"), r"\1 ' \2"),
                (re.compile(f"([^{alpha}{number}])'([{alpha}])"), r"\1 ' \2"),
                (re.compile(f"([{alpha}])'([^{alpha}])"), r"\1 ' \2"),
                (re.compile(f"([{alpha}])'([{alpha}])"), r"\1 '\2"),
                (re.compile(f"([{number}])'(s)"), r"\1 '\2"),
            )
        if self.lang in ("fr", "it"):
            return (
                (re.compile(f"([^{alpha}])'([^{alpha}])"), r"\1 ' \2"),
                (re.compile(f"([^{alpha}])'([{alpha}])"), r"\1 ' \2"),
                (re.compile(f"([{alpha}])'([^{alpha}])"), r"\1 ' \2"),
                (re.compile(f"([{alpha}])'([{alpha}])"), r"\1' \2"),
            )
        return ((re.compile("'"), " ' "),)

    def is_simple(self, text: str) -> bool:
        """Whether every rule passes over this text: letters and digits, with single hyphens, or a number with single
        periods and commas, inside; and no spelled-out marker."""
        if not (text.isascii() and text.isalnum()) and self._simple.fullmatch(text) is None:
            return False
        return "MULTI" not in text

    def words(self, text: str) -> list[str]:
        """The words of a text that was normalised before."""
        if "  " in text or not text.isprintable():
            text = _ASCII_JUNK.sub("", _WHITE_SPACE.sub(" ", text))
        text = text.strip()
        text = self._apart.sub(r" \1 ", text)
        dots = ".." in text
        if dots:
            text = _mark_dots(text)
        if "," in text:
            for pattern, template in self._commas:
                text = pattern.sub(template, text)
        if "'" in text:
            for pattern, template in self._apostrophes:
                text = pattern.sub(template, text)
        tokens = text.split()
        if "." in text:
            tokens = self._split_periods(tokens)
        if tokens and tokens[-1].endswith(".'"):
            tokens[-1:] = [tokens[-1][:-2], ".", "'"] if len(tokens[-1]) > 2 else [".", "'"]
        if dots or "MULTI" in text:
            tokens = [_restore_dots(token) if "MULTI" in token else token for token in tokens]
        return tokens

    def _split_periods(self, tokens: Sequence[str]) -> list[str]:
        """Take the period off each word, unless it is an abbreviation, a listed prefix, or the next word is small."""
        result: list[str] = []
        for i, token in enumerate(tokens):
            if token[-1] == "." and len(token) > 1:
                prefix = token[:-1]
                following = tokens[i + 1] if i + 1 < len(tokens) else ""
                if not self.keeps_period(prefix, following):
                    result += (prefix, ".")
                    continue
            result.append(token)
        return result

    def keeps_period(self, prefix: str, following: str) -> bool:
        """Whether `prefix` and the period after it stay one word before the word `following`, empty at the end."""
        if "." in prefix and self._any_alpha.search(prefix):
            return True
        if prefix in self._prefixes:
            return True
        if following and self._lower.match(following):
            return True
        return prefix in self._numeric_prefixes and "0" <= following[:1] <= "9" and following != ""

    def next_class(self, word: str) -> int:
        """What a period before `word` sees: 1 a small letter, 2 an ASCII digit, 0 anything else."""
        if self._lower.match(word):
            return 1
        return 2 if word and word[0] in "0123456789" else 0


def _mark_dots(text: str) -> str:
    def marker(match: re.Match[str]) -> str:
        mark = " " + "DOT" * (match.end() - match.start()) + "MULTI"
        return mark + " " if match.end() < len(text) else mark

    return _DOT_RUN.sub(marker, text)


def _restore_dots(token: str) -> str:
    """Replace `(?:DOT)+MULTI` by dots, found from its end: the pattern itself takes quadratic time on DOTs."""
    parts: list[str] = []
    done = 0
    end = token.find("MULTI")
    while end >= 0:
        start = end
        while start - 3 >= done and token.startswith("DOT", start - 3):
            start -= 3
        if start < end:
            parts += (token[done:start], "." * ((end - start) // 3))
            done = end + 5
        end = token.find("MULTI", end + 5)
    return "".join([*parts, token[done:]])


def _pattern(ranges: Sequence[int]) -> str:
    """Code point ranges as the inside of a regular expression's character class."""
    pairs = zip(ranges[::2], ranges[1::2], strict=True)
    return "".join(
        [f"{_spelled(first)}-{_spelled(last)}" if last > first else _spelled(first) for first, last in pairs]
    )


def _spelled(code: int) -> str:
    """A character as it is, which is parsed in a third of the time; in ASCII, where some have a meaning, its number."""
    return chr(code) if code > 127 else f"\\x{code:02x}"
