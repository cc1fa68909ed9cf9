"""Files of SQuAD's shape: SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018), XQuAD, MLQA."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from xlm_runtime.errors import InputError

T = TypeVar("T")

# as they are published: xquad.de.json, test-context-de-question-en.json
_XQUAD_NAME = re.compile(r"xquad\.([a-z]{2})\.json")
_MLQA_NAME = re.compile(r"(?:dev|test)-context-([a-z]{2})-question-([a-z]{2})\.json")


@dataclass(frozen=True)
class SquadExample:
    """A question of a file; `answers` is empty where the context has none. Contexts are shared between questions.

    `id` is the question's key in files of predictions: an id that is a number in the file stands there as a string.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class SquadFile:
    """A file's questions, in its order.

    Attributes:
        version: as the file says, such as "1.1" or "v2.0"; empty where it does not.
        with_impossible: whether questions may have no answer, as in SQuAD 2.0.
        lang, question_lang: languages of contexts and questions, where the file's name tells them.
        is_mlqa: whether the file's name is one of MLQA's.
    """

    examples: tuple[SquadExample, ...]
    version: str
    with_impossible: bool
    lang: str | None = None
    question_lang: str | None = None
    is_mlqa: bool = False

    def first(self, count: int) -> SquadFile:
        """The file with its first questions alone."""
        return replace(self, examples=self.examples[:count])


def read_squad(path: str | Path) -> SquadFile:
    """Read a file as it is published.

    Raises:
        InputError: the file is missing, no JSON, or an entry is not what SQuAD's format has there; the message names
            the entry, such as data[3].paragraphs[0].qas[1].answers[0].text.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"The file '{path}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The file '{path}' is not UTF-8 ({error.reason} at byte {error.start}).") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"The file '{path}' is not JSON: {error}.") from error
    reader = _Reader(str(path))
    examples: dict[str, SquadExample] = {}
    impossible = False
    for at, article in reader.items(reader.mapping("", content), "data", ""):
        for place, paragraph in reader.items(reader.mapping(at, article), "paragraphs", at):
            context = reader.entry(reader.mapping(place, paragraph), "context", str, place)
            for where, qa in reader.items(paragraph, "qas", place):
                example = reader.example(reader.mapping(where, qa), context, where)
                if example.id in examples:
                    raise reader.error(f"{where}.id", f"'{example.id}' is there twice; expected one for each question")
                examples[example.id] = example
                impossible |= "is_impossible" in qa or not example.answers
    if not examples:
        raise reader.error("data", "holds no question")
    version = content.get("version", "")
    xquad, mlqa = _XQUAD_NAME.fullmatch(path.name), _MLQA_NAME.fullmatch(path.name)
    return SquadFile(
        examples=tuple(examples.values()),
        version=str(version),
        with_impossible=impossible or str(version).lstrip("v").startswith("2"),
        lang=xquad[1] if xquad else mlqa[1] if mlqa else None,
        question_lang=mlqa[2] if mlqa and mlqa[2] != mlqa[1] else None,
        is_mlqa=mlqa is not None,
    )


class _Reader:
    """Takes entries out of a file and names the one that is not as expected."""

    def __init__(self, path: str) -> None:
        self._path = path

    def error(self, place: str, problem: str) -> InputError:
        where = f"'{place}' " if place else "its top level "
        return InputError(f"The file '{self._path}' is not SQuAD-shaped: {where}{problem}.")

    def mapping(self, place: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.error(place, f"is a {type(value).__name__}; expected an object")
        return value

    def entry(self, values: dict[str, Any], key: str, kind: type[T], place: str) -> T:
        at = f"{place}.{key}".lstrip(".")
        if key not in values:
            raise self.error(at, "is missing")
        value = values[key]
        if not isinstance(value, kind):
            expected = {"str": "a string", "list": "a list"}[kind.__name__]
            raise self.error(at, f"is a {type(value).__name__}; expected {expected}")
        return value

    def items(self, values: dict[str, Any], key: str, place: str) -> list[tuple[str, Any]]:
        at = f"{place}.{key}".lstrip(".")
        return [(f"{at}[{i}]", item) for i, item in enumerate(self.entry(values, key, list, place))]

    def example(self, qa: dict[str, Any], context: str, place: str) -> SquadExample:
        """A question; where its answers start does not matter here, since answers are compared by their text."""
        question = self.entry(qa, "question", str, place)
        if not question.strip():
            raise self.error(f"{place}.question", "is empty")
        impossible = self._impossible(qa, place)
        listed = [] if impossible and "answers" not in qa else self.items(qa, "answers", place)
        answers = tuple(self.entry(self.mapping(at, answer), "text", str, at) for at, answer in listed)
        return SquadExample(self._identifier(qa, place), question, context, () if impossible else answers)

    def _identifier(self, qa: dict[str, Any], place: str) -> str:
        """The id as a key of the published files of predictions, where JSON has numbers as strings, too."""
        value = qa.get("id")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return json.dumps(value)
        return self.entry(qa, "id", str, place)

    def _impossible(self, qa: dict[str, Any], place: str) -> bool:
        value = qa.get("is_impossible", False)
        if isinstance(value, bool) or (isinstance(value, int) and value in (0, 1)):
            return bool(value)
        raise self.error(f"{place}.is_impossible", f"is {value!r}; expected true or false, or 1 or 0")
