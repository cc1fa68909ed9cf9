"""The real text: sentences and sentence pairs of the reference folder, split by a hash of the text.

A text that occurs twice is on the same side of the split both times.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

from examples.train_demo.facts import LANGUAGES, RELATIONS, RealText, World

DEFAULT_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
_TATOEBA = {"ar": "ara", "de": "deu", "es": "spa", "fr": "fra", "it": "ita", "ru": "rus", "zh": "cmn"}
_UDHR = {
    "ar": "arb",
    "de": "deu_1996",
    "en": "eng",
    "es": "spa",
    "fr": "fra",
    "it": "ita",
    "ru": "rus",
    "zh": "cmn_hans",
}
_XQUAD = ("ar", "de", "en", "es", "ru", "zh")
_CHINESE_NAMES = re.compile("汤姆|玛丽|约翰|波士顿|[·A-Za-z]")
_HELD_OUT_SHARE = 20  # one text of this many


@dataclass
class Corpus:
    """Texts of each language, and translations as ((lang, text), (lang, text)), for training and held out."""

    train: dict[str, list[str]] = field(default_factory=lambda: {lang: [] for lang in LANGUAGES})
    held_out: dict[str, list[str]] = field(default_factory=lambda: {lang: [] for lang in LANGUAGES})
    pairs: list[tuple[tuple[str, str], tuple[str, str]]] = field(default_factory=list)

    def add(self, *translations: tuple[str, str]) -> None:
        """(lang, text) of each translation; pairs are kept where neither side is held out."""
        for lang, text in translations:
            (self.held_out if is_held_out(text) else self.train)[lang].append(text)
        self.pairs += [
            (a, b) for a, b in combinations(translations, 2) if not is_held_out(a[1]) and not is_held_out(b[1])
        ]


def is_held_out(text: str) -> bool:
    return zlib.crc32(text.strip().encode()) % _HELD_OUT_SHARE == 0


def read_corpus(folder: Path) -> Corpus:
    """Tatoeba's sentence pairs, XQuAD's questions and paragraphs, the Declaration of Human Rights.

    Raises:
        FileNotFoundError: the folder, or one of its files, is not there.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"'{folder}' is not there. Training on real text needs the folders tatoeba, udhr and xquad (see the model "
            "card for their sources); give their place with --data, or run --smoke, which needs none."
        )
    corpus = Corpus()
    for lang, code in _TATOEBA.items():
        sides = [(folder / "tatoeba" / f"tatoeba.{code}-eng.{side}").read_text("utf-8") for side in (code, "eng")]
        for foreign, english in zip(*(side.splitlines() for side in sides), strict=True):
            corpus.add((lang, foreign.strip()), ("en", english.strip()))
    articles = {lang: json.loads((folder / "xquad" / f"xquad.{lang}.json").read_text("utf-8")) for lang in _XQUAD}
    paragraphs = {lang: [p for a in data["data"] for p in a["paragraphs"]] for lang, data in articles.items()}
    for row in zip(*(paragraphs[lang] for lang in _XQUAD), strict=True):
        for lang, paragraph in zip(_XQUAD, row, strict=True):
            for part in _parts(paragraph["context"], lang):
                corpus.add((lang, part))
        for questions in zip(*(paragraph["qas"] for paragraph in row), strict=True):
            corpus.add(*((lang, q["question"].strip()) for lang, q in zip(_XQUAD, questions, strict=True)))
    for lang, name in _UDHR.items():
        for element in ElementTree.parse(folder / "udhr" / f"udhr_{name}.xml").iter():
            if element.tag.endswith("para") and element.text and element.text.strip():
                for part in _parts(element.text, lang):
                    corpus.add((lang, part))
    return corpus


def real_text(corpus: Corpus) -> dict[str, RealText]:
    """Of each language's training text the rare words, as names are, and the short sentences without names.

    A name is a word that stands in capitals inside a sentence; German writes every noun so, and there the names of
    the English text are taken, which are mostly the same.
    """
    inside = {lang: {word for text in texts for word in _words(text, lang)[1:] if word[:1].isupper()}
              for lang, texts in corpus.train.items()}  # fmt: skip
    found = {}
    for lang, texts in corpus.train.items():
        names = inside["en" if lang == "de" else lang] - {"I"}
        counts = Counter(word for text in texts for word in _words(text, lang))
        words = sorted(word for word, count in counts.items() if count <= 2 and len(word) <= 12)
        longest = 25 if lang == "zh" else 70
        sentences = [text for text in texts if len(text) <= longest and not _has_name(text, lang, names)]
        found[lang] = RealText(tuple(words), tuple(sentences))
    return found


def _has_name(text: str, lang: str, names: set[str]) -> bool:
    return bool(_CHINESE_NAMES.search(text)) if lang == "zh" else bool(names & set(_words(text, lang)))


def _words(text: str, lang: str) -> list[str]:
    """Words of letters; in Chinese pairs of neighbouring characters."""
    words = re.findall(r"[^\W\d_]+", text)
    return [word[i : i + 2] for word in words for i in range(0, len(word) - 1, 2)] if lang == "zh" else words


def template_corpus(sentences: int, seed: int) -> Corpus:
    """The same of template sentences alone, for a run without the reference folder."""
    corpus, rng = Corpus(), random.Random(seed)
    for lang in LANGUAGES:
        for share, held_out in ((corpus.train, False), (corpus.held_out, True)):
            world = World(lang, rng, held_out)
            share[lang] += template_texts(world, sentences if not held_out else max(1, sentences // 10))
    corpus.pairs = [
        (("en", a), (lang, b))
        for lang in LANGUAGES
        for a, b in zip(corpus.train["en"], corpus.train[lang], strict=True)
    ]
    return corpus


def template_texts(world: World, count: int) -> list[str]:
    """Sentences and questions of templates."""
    texts = []
    for _ in range(count):
        fact = world.fact(world.person(), world.rng.choice(RELATIONS))
        texts.append(world.ask(fact) if world.rng.random() < 0.25 else world.say(fact)[1].text)
    return texts


def _parts(text: str, lang: str, longest: int = 220) -> list[str]:
    """A paragraph's sentences, neighbours together up to `longest` characters (a third of it in Chinese)."""
    longest = longest // 3 if lang == "zh" else longest
    parts: list[str] = []
    for sentence in (
        re.split(r"(?<=[.!?؟。！？;；])\s*(?=\S)", text.strip())
        if lang == "zh"
        else re.split(r"(?<=[.!?؟;])\s+", text.strip())
    ):
        if parts and len(parts[-1]) + len(sentence) < longest:
            parts[-1] += ("" if lang == "zh" else " ") + sentence
        else:
            parts.append(sentence)
    return [part.strip() for part in parts if part.strip()]
