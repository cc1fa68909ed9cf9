"""XLM's preprocessing as its published scripts describe it, one rule after the other and nothing remembered.

Sources: XLM `tools/lowercase_and_remove_accent.py`; Moses `replace-unicode-punctuation.perl`,
`normalize-punctuation.perl`, `remove-non-printing-char.perl` and `tokenizer.perl`, in the form sacremoses gives the
last two; byte-pair merges after Sennrich et al. 2016. Slow on purpose: this is what the product is compared with.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

# replace-unicode-punctuation.perl
UNICODE_PUNCTUATION = [
    ("，", ","),
    (r"。\s*", ". "),
    ("、", ","),
    ("”", '"'),
    ("“", '"'),
    ("∶", ":"),
    ("：", ":"),
    ("？", "?"),
    ("《", '"'),
    ("》", '"'),
    ("）", ")"),
    ("！", "!"),
    ("（", "("),
    ("；", ";"),
    ("」", '"'),
    ("「", '"'),
    *[(chr(0xFF10 + digit), str(digit)) for digit in range(10)],
    (r"．\s*", ". "),
    ("～", "~"),
    ("’", "'"),
    ("…", "..."),
    ("━", "-"),
    ("〈", "<"),
    ("〉", ">"),
    ("【", "["),
    ("】", "]"),
    ("％", "%"),
]

# normalize-punctuation.perl, by its own headings
EXTRA_SPACES = [
    (r"\r", ""),
    (r"\(", " ("),
    (r"\)", ") "),
    (r" +", " "),
    (r"\) ([.!:?;,])", r")\1"),
    (r"\( ", "("),
    (r" \)", ")"),
    (r"(\d) %", r"\1%"),
    (r" :", ":"),
    (r" ;", ";"),
]
NOT_PENN = [("`", "'"), ("''", ' " ')]
UNICODE_QUOTES = [
    ("„", '"'),
    ("“", '"'),
    ("”", '"'),
    ("–", "-"),
    ("—", " - "),
    (" +", " "),
    ("´", "'"),
    ("([a-zA-Z])‘([a-zA-Z])", r"\1'\2"),
    ("([a-zA-Z])’([a-zA-Z])", r"\1'\2"),
    ("[‘‚’]", "'"),
    ("''", '"'),
    ("…", "..."),
]
FRENCH_QUOTES = [
    ("\u00a0«\u00a0", '"'),
    ("«\u00a0", '"'),
    ("«", '"'),
    ("\u00a0»\u00a0", '"'),
    ("\u00a0»", '"'),
    ("»", '"'),
]
PSEUDO_SPACES = [
    ("\u00a0%", "%"),
    ("nº\u00a0", "nº "),
    ("\u00a0:", ":"),
    ("\u00a0ºC", " ºC"),
    ("\u00a0cm", " cm"),
    (r"\u00a0\?", "?"),
    ("\u00a0!", "!"),
    ("\u00a0;", ";"),
    (",\u00a0", ", "),
    (" +", " "),
]
ENGLISH_COMMAS = [(r'"([,.]+)', r'\1"')]
GERMAN_SPANISH_FRENCH_COMMAS = [(',"', '",'), (r'(\.+)"(\s*[^<])', r'"\1\2')]


def normalize(text: str, lang: str) -> str:
    """Unicode punctuation, Moses punctuation, then the characters that do not print."""
    rules = [*UNICODE_PUNCTUATION, *EXTRA_SPACES, *NOT_PENN, *UNICODE_QUOTES, *FRENCH_QUOTES, *PSEUDO_SPACES]
    if lang == "en":
        rules += ENGLISH_COMMAS
    elif lang in ("de", "es", "fr"):
        rules += GERMAN_SPANISH_FRENCH_COMMAS
    between_digits = "," if lang in ("de", "es", "cz", "cs", "fr") else "."
    rules.append((r"(\d)\u00a0(\d)", rf"\g<1>{between_digits}\2"))
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return "".join(char for char in text.strip() if not unicodedata.category(char).startswith("C"))


def romanian(text: str) -> str:
    for old, new in ("ŞȘ", "şș", "ŢȚ", "ţț"):
        text = text.replace(old, new)
    for old, new in zip("ȘșȚțĂăÂâÎî", "SsTtAaAaIi", strict=True):
        text = text.replace(old, new)
    return text


class Moses:
    """tokenizer.perl with `-no-escape`."""

    def __init__(self, lang: str, tables: Mapping[str, Any]) -> None:
        self.lang = lang
        extra = tables["extra_letters"].get(lang, {"alnum": [], "alpha": []})
        self.alnum = characters(tables["classes"]["alnum"] + extra["alnum"])
        self.alpha = characters(tables["classes"]["alpha"])
        self.any_alpha = self.alpha | characters(extra["alpha"])
        self.lower = characters(tables["classes"]["lower"])
        self.number = characters(tables["classes"]["number"])
        prefixes = tables["prefixes"][tables["languages"].get(lang, "en")]
        self.numeric_only = set(prefixes["numeric_only"])
        self.nonbreaking = set(prefixes["nonbreaking"]) - self.numeric_only

    def tokenize(self, text: str) -> list[str]:
        text = re.sub(r"[\x00-\x1f]", "", re.sub(r"\s+", " ", text)).strip()
        # everything that is no letter, digit, white space or one of . ' ` , - stands alone
        text = "".join(c if c in self.alnum or c.isspace() or c in ".'`,-" else f" {c} " for c in text)
        # runs of periods stay together
        text = re.sub(r"(\.{2,})(.?)", lambda m: f" {'DOT' * len(m[1])}MULTI" + (f" {m[2]}" if m[2] else ""), text)
        text = self.commas(text)
        text = self.apostrophes(text)
        text = self.periods(text)
        text = re.sub(r"\.' ?$", " . ' ", text)
        text = re.sub(r"((?:DOT)+)MULTI", lambda m: "." * (len(m[1]) // 3), text)
        return text.split()

    def kinds(self, text: str, pattern: str) -> str:
        """Each character as its class, so that a rule reads as published: `a` letter, `0` number, others themselves.

        A Roman numeral is both; it is what the rule asks about.
        """
        kinds = []
        for char in text:
            if char in self.alpha and ("a" in pattern or char not in self.number):
                kinds.append("a")
            elif char in self.number:
                kinds.append("0")
            else:
                kinds.append(char if char in "', " else "_")
        return "".join(kinds)

    def insert(self, text: str, pattern: str, before: str, after: str) -> str:
        """Put `before` and `after` around the comma or apostrophe of each match of `pattern` over the classes."""
        parts, done = [], 0
        for match in re.finditer(pattern, self.kinds(text, pattern)):
            parts += [text[done : match.start(1)], before, text[match.start(1)], after]
            done = match.end(1)
        return "".join([*parts, text[done:]])

    def commas(self, text: str) -> str:
        text = self.insert(text, r"[^0](,)", " ", " ")
        text = self.insert(text, r"(,)[^0]", " ", " ")
        return self.insert(text, r"0(,)$", " ", " ")

    def apostrophes(self, text: str) -> str:
        if self.lang == "en":
            text = self.insert(text, r"[^a](')[^a]", " ", " ")
            text = self.insert(text, r"[^a0](')a", " ", " ")
            text = self.insert(text, r"a(')[^a]", " ", " ")
            text = self.insert(text, r"a(')a", " ", "")
            parts = re.split(r"'(?=s)", text)
            joined = parts[0]
            for part in parts[1:]:
                joined += (" '" if joined and joined[-1] in self.number else "'") + part
            return joined
        if self.lang in ("fr", "it"):
            text = self.insert(text, r"[^a](')[^a]", " ", " ")
            text = self.insert(text, r"[^a](')a", " ", " ")
            text = self.insert(text, r"a(')[^a]", " ", " ")
            return self.insert(text, r"a(')a", "", " ")
        return text.replace("'", " ' ")

    def periods(self, text: str) -> str:
        words = text.split()
        result = []
        for i, word in enumerate(words):
            following = words[i + 1] if i + 1 < len(words) else ""
            prefix = word[:-1]
            keep = not prefix or not word.endswith(".")
            keep = keep or ("." in prefix and any(char in self.any_alpha for char in prefix))
            keep = keep or prefix in self.nonbreaking
            keep = keep or (following != "" and following[0] in self.lower)
            keep = keep or (prefix in self.numeric_only and re.match("[0-9]", following) is not None)
            result.append(word if keep else f"{prefix} .")
        return " ".join(result)


def characters(ranges: Iterable[int]) -> frozenset[str]:
    flat = list(ranges)
    return frozenset(chr(c) for a, b in zip(flat[::2], flat[1::2], strict=True) for c in range(a, b + 1))


def lowercase_and_remove_accent(words: list[str]) -> list[str]:
    text = unicodedata.normalize("NFD", " ".join(words).lower())
    return "".join(char for char in text if unicodedata.category(char) != "Mn").lower().split(" ")


def words(text: str, moses: Moses, lowercase: bool) -> list[str]:
    """The words of a text in a language that Moses splits."""
    text = normalize(text, moses.lang)
    if moses.lang == "ro":
        text = romanian(text)
    found = moses.tokenize(text)
    return [word for word in (lowercase_and_remove_accent(found) if lowercase else found) if word]


def byte_pairs(word: str, ranks: Mapping[str, int]) -> list[str]:
    """Merge the pair of lowest rank wherever it stands, from left to right, until no known pair is left."""
    symbols = [*word[:-1], word[-1] + "</w>"]
    while len(symbols) > 1:
        known = [f"{a} {b}" for a, b in pairwise(symbols) if f"{a} {b}" in ranks]
        if not known:
            break
        first, second = min(known, key=ranks.__getitem__).split(" ")
        merged, i = [], 0
        while i < len(symbols):
            if symbols[i : i + 2] == [first, second]:
                merged.append(first + second)
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        symbols = merged
    return symbols
