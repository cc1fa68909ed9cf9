"""FlauBERT's tokenizer: Hugging Face's ids on French, spans of the text as it was, and options in files."""

from __future__ import annotations

import json
import pickle
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization.conftest import TOY_MERGES, TOY_TOKENS, VOCABULARIES
from tests.runtime.tokenization.strategies import texts
from xlm_runtime import BundleError, InputError
from xlm_runtime.tokenization.alignment import AlignedText
from xlm_runtime.tokenization.flaubert import FlaubertTokenizer, FrenchPreparation

transformers = pytest.importorskip("transformers")
pytest.importorskip("sacremoses")

# vocabulary, and whether texts are lower-cased, → ours and Hugging Face's
Pair = Callable[[str, bool], tuple[FlaubertTokenizer, Any]]

# accents composed and apart, quotes of two marks, both apostrophes, marks with French spaces, elisions, letters whose
# small forms depend on their neighbours, Hangul's parts, special tokens
FRENCH = [
    "L'été dernier, j'ai vu l'île d'Oléron.",
    "L’E\u0301te\u0301 où l’on mange des GÂTEAUX : « Ça va\u00a0? » — Oui\u00a0!",
    "``Bonjour'', dit-il ; ''encore'' un œuf, s'il vous plaît…",
    "Aujourd'hui M. Dupont (né le 1er janv. 1970) gagne 1 234,50 € p. ex. etc.",
    "ΌΣΟΣ ΣΑΣ. İstanbul A\u030a \u212b \u1112\u1161\u11ab a\u0323\u0302 a\u0302\u0323",
    "Un <special1> de PLUS</s> <SPECIAL2>, l'<mask>",
    "",
    "  \n\t ",
    "e\u0301" * 3 + "\u0301" * 70 + "\u0323" * 3,
]


@pytest.fixture(scope="module")
def pair(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    made: dict[tuple[str, bool], tuple[FlaubertTokenizer, Any]] = {}

    def load(name: str, lowercase: bool) -> tuple[FlaubertTokenizer, Any]:
        if (name, lowercase) not in made:
            folder = tmp_path_factory.mktemp("flaubert")
            for file in ("vocab.json", "merges.txt"):
                shutil.copyfile(shared / name / file, folder / file)
            (folder / "tokenizer_config.json").write_text(json.dumps({"do_lowercase": lowercase}))
            ours = FlaubertTokenizer.from_pretrained(folder, mask_alias=None)
            made[name, lowercase] = ours, transformers.FlaubertTokenizer.from_pretrained(folder)
        return made[name, lowercase]

    return load


def differing(ours: FlaubertTokenizer, theirs: Any, lines: list[str]) -> list[str]:
    """The lines whose ids differ in public mode, in `lang` mode or with spans."""
    found = []
    for line in lines:
        public = ours(line, return_offsets_mapping=True)
        trained = theirs.convert_tokens_to_ids(theirs._tokenize(line))
        same = public["input_ids"] == ours(line)["input_ids"] == theirs(line)["input_ids"]
        special = any(token in line for token in theirs.all_special_tokens)
        if not same or not (special or ours(line, lang="fr", add_special_tokens=False)["input_ids"] == trained):
            found.append(line)
    return found


@pytest.mark.shared
@pytest.mark.parametrize("lowercase", [False, True])
def test_a_sample_of_french(pair: Pair, real_lines: dict[str, list[str]], lowercase: bool) -> None:
    assert not differing(*pair(VOCABULARIES[0], lowercase), [*FRENCH, *real_lines["fr"][::41]])


@pytest.mark.whole
@pytest.mark.shared
@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("name", VOCABULARIES)
def test_all_french_and_other_languages(
    pair: Pair, real_lines: dict[str, list[str]], name: str, lowercase: bool
) -> None:
    """Whatever language a text is in, both split it as French."""
    ours, theirs = pair(name, lowercase)
    assert not differing(ours, theirs, real_lines["fr"])
    for lines in real_lines.values():
        assert not differing(ours, theirs, [unicodedata.normalize("NFD", line) for line in lines[::37]])


@given(texts, st.booleans())
def test_preparation(text: str, lowercase: bool) -> None:
    """The same characters with and without spans, which never run backwards and lie in the text."""
    steps = FrenchPreparation(lowercase)
    plain = unicodedata.normalize("NFC", text.replace("``", '"').replace("''", '"'))
    assert steps.plain(text) == (plain.lower() if lowercase else plain)
    aligned = steps.aligned(AlignedText.identity(text))
    assert aligned.text == steps.plain(text)
    assert len(aligned.begin) == len(aligned.end) == len(aligned.text)
    assert aligned.begin == sorted(aligned.begin)
    assert aligned.end == sorted(aligned.end)
    assert all(0 <= a < b <= len(text) for a, b in zip(aligned.begin, aligned.end, strict=True))


@pytest.fixture
def folder(tmp_path: Path, tables: dict[str, Any]) -> Path:
    """A vocabulary of capital and small letters, with Moses tables."""
    letters = [*"LÉEle", "é</w>", "e</w>", "l'</w>", "L'</w>"]
    vocabulary = {token: i for i, token in enumerate([*TOY_TOKENS, *letters, "'</w>"])}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(TOY_MERGES, encoding="utf-8")
    (tmp_path / "moses.json").write_text(json.dumps(tables), encoding="utf-8")
    return tmp_path


def test_spans_are_of_the_text_as_it_was(folder: Path) -> None:
    tokenizer = FlaubertTokenizer(folder / "vocab.json", folder / "merges.txt", do_lowercase=True)
    text = "``E\u0301'' L'E\u0301te\u0301"
    encoding = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    words = {text[a:b] for a, b in encoding["offset_mapping"]}
    assert words >= {"``", "E\u0301", "''", "e\u0301"}


def test_options_are_saved_and_read(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"do_lowercase": True, "do_lowercase_and_remove_accent": True, "lang2id": {"fr": 0}})
    )
    first = FlaubertTokenizer.from_pretrained(folder)
    assert (first.do_lowercase, first.do_lowercase_and_remove_accent) == (True, False), "as in transformers"
    first.save_pretrained(folder / "saved")
    saved = json.loads((folder / "saved" / "tokenizer_config.json").read_text())
    assert saved["tokenizer_class"] == "FlaubertTokenizer"
    assert (saved["do_lowercase"], "do_lowercase_and_remove_accent" in saved) == (True, False)
    again, theirs = (kind.from_pretrained(folder / "saved") for kind in (FlaubertTokenizer, transformers.AutoTokenizer))
    assert type(theirs) is transformers.FlaubertTokenizer
    for copy in (again, pickle.loads(pickle.dumps(again))):
        assert copy("LOWER É l'été")["input_ids"] == theirs("LOWER É l'été")["input_ids"]
    assert again.tokenize("LOWER newer", lang="fr") == again.tokenize("lower newer") != ["<unk>"]
    with pytest.raises(InputError, match="Language 'en' is not one of this model's: fr"):
        again("lower", lang="en")


def test_refusals(folder: Path) -> None:
    with pytest.raises(InputError, match="FlauBERT keeps accents; use do_lowercase"):
        FlaubertTokenizer.from_pretrained(folder, do_lowercase_and_remove_accent=True)
    (folder / "tokenizer_config.json").write_text('{"do_lowercase": "yes"}')
    with pytest.raises(BundleError, match="do_lowercase"):
        FlaubertTokenizer.from_pretrained(folder)
