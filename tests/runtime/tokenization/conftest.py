"""Fixtures of the tokenizer's tests: a toy vocabulary, Moses tables, and the reference data where it is there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.paths import SHARED
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.sacremoses_tables import read_tables

# the first example of a test compiles patterns, which a deadline would take for a slow example
settings.register_profile("tokenization", deadline=None)
settings.load_profile("tokenization")

VOCABULARIES = ("xlm-mlm-tlm-xnli15-1024", "xlm-clm-ende-1024")
# the languages of the 15- and 100-language models that Moses splits and that have tables of their own, and some without
LANGUAGES = (
    "ar",
    "bg",
    "cs",
    "de",
    "el",
    "en",
    "es",
    "fr",
    "hi",
    "it",
    "ko",
    "nl",
    "pl",
    "pt",
    "ro",
    "ru",
    "sv",
    "sw",
    "ta",
    "ur",
    "vi",
)
ISO = {
    "ara": "ar",
    "arb": "ar",
    "cmn": "zh",
    "deu": "de",
    "eng": "en",
    "fra": "fr",
    "ita": "it",
    "jpn": "ja",
    "nld": "nl",
}
ISO |= {"por": "pt", "rus": "ru", "spa": "es", "swh": "sw", "tha": "th"}

TOY_TOKENS = ["l", "o", "w", "e", "r", "s", "t", "i", "d", "n", "w</w>", "r</w>", "t</w>", "lo", "low", "er</w>"]
TOY_TOKENS += ["low</w>", "lowest</w>", "newer</w>", "wider</w>", "<unk>"]
TOY_MERGES = "l o 123\nlo w 1456\ne r</w> 1789\n"


@cache
def all_tables() -> dict[str, Any]:
    """The Moses tables of `LANGUAGES`; skips where sacremoses is not installed."""
    pytest.importorskip("sacremoses")
    return read_tables(LANGUAGES)


@pytest.fixture(scope="session")
def tables() -> dict[str, Any]:
    return all_tables()


@pytest.fixture
def toy_folder(tmp_path: Path, tables: dict[str, Any]) -> Path:
    """The vocabulary of 21 tokens that transformers tests its XLM tokenizer with."""
    folder = tmp_path / "toy"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOY_TOKENS)}), encoding="utf-8")
    (folder / "merges.txt").write_text(TOY_MERGES, encoding="utf-8")
    (folder / "moses.json").write_text(json.dumps(tables), encoding="utf-8")
    return folder


@pytest.fixture
def toy(toy_folder: Path) -> XLMTokenizer:
    return XLMTokenizer.from_pretrained(toy_folder)


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"the reference data is not at {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def real(shared: Path) -> Callable[[str], XLMTokenizer]:
    """Loads a real vocabulary once, for every language."""
    loaded: dict[str, XLMTokenizer] = {}

    def load(name: str) -> XLMTokenizer:
        if name not in loaded:
            pytest.importorskip("sacremoses")
            loaded[name] = XLMTokenizer.from_pretrained(shared / name)
            loaded[name].lang2id = None
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def real_lines(shared: Path) -> dict[str, list[str]]:
    """Every line of XQuAD, Tatoeba and UDHR by language."""
    lines: dict[str, list[str]] = {}
    for path in sorted((shared / "xquad").glob("xquad.*.json")):
        found = lines.setdefault(path.name.split(".")[1], [])
        for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
            for paragraph in article["paragraphs"]:
                found += [paragraph["context"], *[question["question"] for question in paragraph["qas"]]]
    for path in sorted((shared / "tatoeba").glob("tatoeba.*")):
        text = path.read_text(encoding="utf-8")
        lines.setdefault(ISO[path.name.rsplit(".", 1)[1]], []).extend(text.split("\n"))
    for path in sorted((shared / "udhr").glob("udhr_*.xml")):
        text = re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))
        lines.setdefault(ISO[path.name[5:8]], []).extend(line for line in text.split("\n") if line.strip())
    return lines
