"""The texts that words are kept for: read from files, tokenised in their languages, counted."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from xlm_runtime.errors import InputError
from xlm_runtime.jobs.formats import find_format
from xlm_runtime.jobs.rows import Row, to_item
from xlm_runtime.tokenization import XLMTokenizer

# every so-manieth text is held out to see what the words of the others are worth on it, at most so many
HELD_OUT_EVERY, MOST_HELD_OUT = 10, 10_000

_TEXTS = ("text", "text_pair", "question", "context", "prompt", "choices", "words")
_LANGUAGES = ("lang", "question_lang")
_LANG_FILE = re.compile(r"([a-z]{2,3}(?:[-_]\w+)?)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class TextFile:
    """A file of texts, and the language of those that name none."""

    path: Path
    lang: str | None = None

    @classmethod
    def parse(cls, given: str) -> TextFile:
        """ "FILE", or "de=FILE" for a file in German."""
        found = None if Path(given).exists() else _LANG_FILE.fullmatch(given)
        return cls(Path(given)) if found is None else cls(Path(found[2]), found[1])


@dataclass(frozen=True)
class Text:
    """A text, and each language that it may be given with; None for without one."""

    text: str
    langs: tuple[str | None, ...] = (None,)


@dataclass
class Corpus:
    """What texts hold.

    Attributes:
        texts: how many there are.
        held_out: some of them, the first among them.
        counts: id → how often the others have it.
        held_out_counts: id → how often these have it.
    """

    texts: int = 0
    held_out: list[Text] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    held_out_counts: Counter[int] = field(default_factory=Counter)

    def add(self, text: Text, tokenizer: XLMTokenizer) -> None:
        """Count a text's tokens; one that may come with several languages has what it has with any of them.

        Raises:
            InputError: a language that the model does not have.
        """
        ids: Counter[int] = Counter()
        for lang in text.langs:
            try:
                ids |= Counter(tokenizer.encoder.ids(text.text, lang))
            except InputError as error:
                raise InputError(f"{error} The text is {text.text!r:.60}.") from error
        self.texts += 1
        if self.texts % HELD_OUT_EVERY == 1 and len(self.held_out) < MOST_HELD_OUT:
            self.held_out.append(text)
            self.held_out_counts += ids
        else:
            self.counts += ids


def read_texts(
    file: TextFile, *, name: str | None = None, columns: Sequence[str] = (), languages: Sequence[str] = ()
) -> Iterator[Text]:
    """The texts of a file in a format of `xlm_runtime.jobs`, blank ones left out.

    Args:
        name: of the format, where the file's name does not say it.
        columns: the keys that hold texts; by default those of the pipelines' inputs.
        languages: the wanted ones; rows in others are passed over, and a text that names none, in a file that names
            none, may come in each of them and without one. By default any, and such a text comes without one.

    Raises:
        InputError: no such file, one in another language, or a row that cannot be read or has no text.
    """
    if languages and file.lang is not None and file.lang not in languages:
        raise InputError(
            f"The texts of '{file.path}' are in '{file.lang}', which is not among the languages that stay "
            f"({', '.join(languages)}); name it, too, or leave the file out."
        )
    if not file.path.is_file():
        raise InputError(f"File '{file.path}' not found; give a file of texts, or LANG=FILE for one in a language.")
    rows = find_format(file.path, name, "--format").read(file.path, None)
    default: tuple[str | None, ...] = (None, *languages) if file.lang is None else (file.lang,)
    for row in rows:
        try:
            strings, named = _read_row(row, columns)
        except InputError as error:
            raise InputError(f"'{file.path}', row {row.number}: {error}") from error
        langs = tuple(lang for lang in named if not languages or lang in languages)
        if langs or not named:
            yield from (Text(string, langs or default) for string in strings if string.strip())


def _read_row(row: Row, columns: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The texts in a row, and the languages that it names."""
    values = row.values
    if isinstance(values, InputError):
        raise values
    if isinstance(values, str):
        return [values], ()
    names = columns or _TEXTS
    if values.keys().isdisjoint(names):
        raise InputError(
            f"no text: the row has {', '.join(map(repr, values))}, expected {' or '.join(map(repr, names))}; name "
            "those that hold texts by --columns."
        )
    # lists in CSV files are written in JSON
    given = to_item(replace(row, values={name: values[name] for name in names if name in values}), names, None).given
    if isinstance(given, InputError):
        raise given
    texts = [text for value in given.values() for text in (value if isinstance(value, list) else [value])]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(f"{text!r:.60} is no text; expected a string, or a list of strings.")
    named = [values[name] for name in _LANGUAGES if isinstance(values.get(name), str)]
    return texts, tuple(dict.fromkeys(named))
