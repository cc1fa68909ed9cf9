"""Facts about invented people, said and asked in eight languages with the templates of `templates/`.

Each list of a template file ends with what is held out: the last sentence and question of every relation, the last
names, places, companies and things. Training never sees those; the held-out sets use nothing else.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ru", "zh")
# The languages of the template tasks; each more needs examples of its own. Entities in English alone took about
# 5,000 to a loss of 0.1.
TASK_LANGUAGES = ("de", "en", "ru", "zh")
RELATIONS = ("live", "work", "buy", "born")
# the slot that a relation fills, and its label for named entities
SLOT = {"live": "C", "work": "O", "buy": "T", "born": "D"}
ENTITY = {"P": "PER", "C": "LOC", "O": "ORG", "D": "DATE"}
HELD_OUT = {"male": 2, "female": 2, "family": 3, "city": 4, "org": 3, "noun": 4, "say": 1, "ask": 1, "filler": 1}

# consonants and vowels of made-up names, so that training shows more names than any list holds
_LATIN = ("bcdfghjklmnprstvwz", "aaeeiioou")
_SOUNDS = {"ru": ("бвгджзклмнпрстфхцчш", "ааеиоуыя"), "ar": ("بتجحخدرزسشصطعغفقكلمنه", "اوي")}
_CHARACTERS = "安博彩晨达东丰福国海和恒宏华嘉江金康乐林龙明宁平青庆荣瑞山盛泰天文武祥新兴雪阳义永宇元云泽振正中子宗"


@dataclass(frozen=True)
class Person:
    name: str
    male: bool


@dataclass(frozen=True)
class Fact:
    """`value` stands in the relation's slot."""

    person: Person
    relation: str
    value: str


@dataclass(frozen=True)
class Text:
    """A rendered template with the characters of its slots: (slot, start, end)."""

    text: str
    spans: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class RealText:
    """Words and sentences of real training text in one language: names that only their surroundings tell, and filler
    sentences without names."""

    words: tuple[str, ...] = ()
    sentences: tuple[str, ...] = ()


@cache
def read_templates(lang: str) -> dict[str, Any]:
    path = Path(__file__).parent / "templates" / f"{lang}.json"
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


class World:
    """Draws people, facts and sentences in one language, from the training share or the held-out one.

    `real` adds to the training share; the held-out share uses its lists alone.
    """

    def __init__(self, lang: str, rng: random.Random, held_out: bool, real: RealText | None = None) -> None:
        self.lang, self.rng, self.held_out = lang, rng, held_out
        self.data = read_templates(lang)
        self.real = RealText() if held_out or real is None else real

    def share(self, items: list[str], kind: str) -> list[str]:
        cut = len(items) - HELD_OUT[kind]
        return items[cut:] if self.held_out else items[:cut]

    def pick(self, kind: str, made_up: float = 0.0) -> str:
        """An item of a list, or in training with probability `made_up` an invented one."""
        if not self.held_out and self.rng.random() < made_up:
            return self._invent(kind)
        return self.rng.choice(self.share(self.data[kind], kind))

    def _invent(self, kind: str) -> str:
        rng = self.rng
        if self.real.words and rng.random() < 0.5:
            words = rng.choices(self.real.words, k=rng.choice((1, 2)) if kind == "org" else 1)
            return ("" if self.lang == "zh" else " ").join(words)
        if self.lang == "zh":
            length = {"family": 1, "male": 2, "female": 2, "city": 2, "noun": 2, "org": 4}[kind]
            return "".join(rng.choices(_CHARACTERS, k=length))
        consonants, vowels = _SOUNDS.get(self.lang, _LATIN)

        def word() -> str:
            sounds = [rng.choice(consonants) + rng.choice(vowels) for _ in range(rng.choice((2, 2, 3)))]
            return "".join(sound + (rng.choice(consonants) if rng.random() < 0.35 else "") for sound in sounds)

        words = [word() for _ in range(rng.choice((1, 2)) if kind == "org" else 1)]
        return " ".join(words) if kind == "noun" else " ".join(word.capitalize() for word in words)

    def person(self) -> Person:
        male = self.rng.random() < 0.5
        first, family = self.pick("male" if male else "female", 0.6), self.pick("family", 0.6)
        return Person(self.data["person"].replace("{first}", first).replace("{family}", family), male)

    def value(self, relation: str) -> str:
        if relation == "live":
            return self.pick("city", 0.6)
        if relation == "work":
            return self.pick("org", 0.6)
        if relation == "buy":
            return str(self.data["thing"]).replace("{w}", self.pick("noun", 0.5))
        year = self.rng.choice([y for y in range(1930, 2012) if (y % 7 == 0) == self.held_out])
        day, month = str(self.rng.randint(1, 28)), self.rng.choice(self.data["month"])
        return str(self.data["date"]).replace("{d}", day).replace("{month}", month).replace("{y}", str(year))

    def fact(self, person: Person, relation: str) -> Fact:
        return Fact(person, relation, self.value(relation))

    def say(self, fact: Fact, avoid: str | None = None, frame: bool = True) -> tuple[str, Text]:
        """A sentence for a fact, and its template; `avoid` is a template not to use where there is another."""
        templates = self.share(self.data[fact.relation]["say"], "say")
        template = self.rng.choice([t for t in templates if t != avoid] or templates)
        framed = (
            self.rng.choice(self.data["frames"]).replace("{s}", template)
            if frame and self.rng.random() < 0.4
            else template
        )
        return template, self.render(framed, fact)

    def ask(self, fact: Fact) -> str:
        return self.render(self.rng.choice(self.share(self.data[fact.relation]["ask"], "ask")), fact).text

    def deny(self, fact: Fact) -> str:
        return self.render(self.data["negation"][fact.relation], fact).text

    def about(self, relation: str) -> str:
        topic = self.data["topic"]
        return str(topic["say"]).replace("{w}", topic[relation])

    def filler(self) -> Text:
        if self.real.sentences and self.rng.random() < 0.8:
            return Text(self.rng.choice(self.real.sentences))
        return Text(self.rng.choice(self.share(self.data["filler"], "filler")))

    def render(self, template: str, fact: Fact) -> Text:
        if self.lang == "zh":
            template = template.replace(" ", "")
        template = re.sub(r"\[(.*?)\|(.*?)\]", r"\1" if fact.person.male else r"\2", template)
        text, spans = "", []
        for part in re.split(r"(\{[PCOTD]\})", template):
            if part.startswith("{"):
                value = fact.person.name if part == "{P}" else fact.value
                spans.append((part[1], len(text), len(text) + len(value)))
                part = value
            text += part
        return Text(text, tuple(spans))

    def join(self, sentences: list[Text]) -> Text:
        """A paragraph."""
        space = "" if self.lang == "zh" else " "
        text, spans = "", []
        for sentence in sentences:
            begin = len(text) + len(space) if text else 0
            text += (space if text else "") + sentence.text
            spans += [(slot, begin + start, begin + end) for slot, start, end in sentence.spans]
        return Text(text, tuple(spans))
