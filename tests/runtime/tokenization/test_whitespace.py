"""Line ends and tabs as spaces: which characters, and that nothing moves."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runtime.tokenization.conftest import all_tables
from tests.runtime.tokenization.strategies import texts
from xlm_runtime import InputError
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.text_encoder import TextEncoder
from xlm_runtime.tokenization.vocabulary import SPECIAL_NAMES, Vocabulary

GAPS = [
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if char.isspace() or unicodedata.category(char)[0] == "Z" or len(f"a{char}b".splitlines()) > 1
]
# those that normalisation deletes, and with them the gap between two words
DELETED = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85"


def encoder(whitespace: str) -> TextEncoder:
    letters = "abcdefghijklmnopqrstuvwxyz.,'\"()中"
    tokens = {token: i for i, token in enumerate(["<unk>", *letters, *(letter + "</w>" for letter in letters)])}
    special = dict.fromkeys(SPECIAL_NAMES) | {"unk_token": "<unk>"}
    vocabulary = Vocabulary(tokens, {"l o": 0, "lo w</w>": 1}, special, (), {}, True)
    return TextEncoder(vocabulary, moses_tables=MosesTables(all_tables()), whitespace=whitespace)


@pytest.fixture(scope="module")
def as_published() -> TextEncoder:
    return encoder("delete")


@pytest.fixture(scope="module")
def spaced() -> TextEncoder:
    return encoder("space")


@pytest.mark.parametrize("lang", ["en", "de", "ro", "ar", "zh", "th"])
def test_every_gap_of_unicode(as_published: TextEncoder, spaced: TextEncoder, lang: str) -> None:
    for module in {"zh": ["rjieba"], "th": ["pythainlp"]}.get(lang, []):
        pytest.importorskip(module)
    apart = spaced.ids("low down", lang)
    one_word = as_published.tokens("lowdown", lang)
    fused = [char for char in GAPS if as_published.tokens(f"low{char}down", lang) == one_word]
    assert set(fused) <= set(DELETED)
    if lang == "en":
        assert "".join(fused) == DELETED
    assert [char for char in DELETED if spaced.ids(f"low{char}down", lang) != apart] == []


_ENCODERS: list[TextEncoder] = []


@given(
    st.lists(st.tuples(texts, st.sampled_from([*DELETED, "\r\n", "\n\n", " \n", "\t "])), max_size=4),
    st.sampled_from([None, "de", "fr"]),
)
def test_each_counts_as_one_space_and_nothing_moves(parts: list[tuple[str, str]], lang: str | None) -> None:
    if not _ENCODERS:
        _ENCODERS.extend([encoder("delete"), encoder("space")])
    published, spaced = _ENCODERS
    text = "".join(part + gap for part, gap in parts)
    written = text.translate(dict.fromkeys(map(ord, DELETED), " "))
    assert spaced.ids_and_offsets(text, lang) == published.ids_and_offsets(written, lang)
    assert spaced.ids(text, lang) == published.ids(written, lang)
    assert spaced.tokens(text, lang) == published.tokens(written, lang)


def test_the_tokenizers_option(toy_folder: Path) -> None:
    text = "lower\nnewer\tlow"
    published, spaced = (XLMTokenizer.from_pretrained(toy_folder, whitespace=each) for each in ("delete", "space"))
    assert published.tokenize(text) == published.tokenize("lowernewerlow")
    encoding = spaced(text, return_offsets_mapping=True)
    assert encoding["input_ids"] == published("lower newer low")["input_ids"]
    assert [text[slice(*encoding["offset_mapping"][i])] for i, word in enumerate(encoding.word_ids()) if word == 1] == [
        "n",
        "e",
        "w",
        "er",
    ]
    with pytest.raises(InputError, match="whitespace='keep' is not known; use one of: delete, space"):
        XLMTokenizer.from_pretrained(toy_folder, whitespace="keep")
