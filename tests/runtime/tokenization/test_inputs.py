"""What a call takes: texts, pairs, ids, languages, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer


@pytest.mark.parametrize("text", [None, 5, b"low", [None], [5.0], {"a": 1}, [("a", "b", "c")], [["low", 3]]])
def test_inputs_that_are_no_text(toy: XLMTokenizer, text: Any) -> None:
    with pytest.raises(InputError):
        toy(text)


def test_pairs_as_tuples_and_ids(toy: XLMTokenizer) -> None:
    assert toy([("low", "wider")])["input_ids"] == toy(["low"], ["wider"])["input_ids"]
    assert toy([14, 15])["input_ids"] == toy("lower")["input_ids"]
    with pytest.raises(InputError, match="length of text"):
        toy(["low"], ["a", "b"])


def test_one_language_or_one_for_each(toy_folder: Any) -> None:
    tokenizer = XLMTokenizer(toy_folder / "vocab.json", toy_folder / "merges.txt", lang2id={"en": 0, "fr": 1})
    both = tokenizer(["l'or", "l'or"], lang=["en", "fr"])["input_ids"]
    assert both == [tokenizer("l'or", lang="en")["input_ids"], tokenizer("l'or", lang="fr")["input_ids"]]
    assert tokenizer.id2lang == {0: "en", 1: "fr"}
    with pytest.raises(InputError, match=r"'de' is not one of this model's: en, fr"):
        tokenizer("low", lang="de")
    with pytest.raises(InputError, match="2 languages for 1 texts"):
        tokenizer("low", lang=["en", "fr"])


def test_empty_inputs(toy: XLMTokenizer) -> None:
    assert toy("")["input_ids"] == [toy.bos_token_id, toy.sep_token_id]
    assert toy([])["input_ids"] == []
    assert toy([], padding=True)["input_ids"] == []
    assert toy("", return_offsets_mapping=True).word_ids() == [None, None]
