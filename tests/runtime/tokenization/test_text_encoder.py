"""The short way for one text or pair gives what the facade's call gives."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import AddedToken, XLMTokenizer

TEXTS = ["lower newer wider", "", "Low, <special1> 'lowest'. No. 5", "<mask>low<mask>", "中文，好。 é", "low " * 9]


def same(tokenizer: XLMTokenizer, text: str, pair: str | None, lang: str | None, **cut: Any) -> None:
    try:
        expected = tokenizer(text, pair, lang=lang, return_offsets_mapping=True, return_token_type_ids=True, **cut)
    except InputError as error:
        with pytest.raises(InputError, match=re.escape(str(error))):
            tokenizer.encoder.row(text, pair, lang=lang, **cut)
        return
    plain = tokenizer.encoder.row(text, pair, lang=lang, **cut)
    row = tokenizer.encoder.row(text, pair, lang=lang, return_offsets=True, **cut)
    second = None if pair is None else (expected["token_type_ids"] + [1]).index(1)
    assert plain == (expected["input_ids"], None, None, second)
    assert row == (expected["input_ids"], expected["offset_mapping"], expected.word_ids(), second)


@pytest.mark.parametrize("lang", [None, "de", "fr"])
@pytest.mark.parametrize("pair", [None, *TEXTS[:3]])
@pytest.mark.parametrize("text", TEXTS)
def test_rows_equal_the_facade(toy: XLMTokenizer, text: str, pair: str | None, lang: str | None) -> None:
    same(toy, text, pair, lang)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second", "do_not_truncate"])
@pytest.mark.parametrize("max_length", [13, 14, 18, 100])
@pytest.mark.parametrize("pair", [None, "low <special1> lowest low"])
def test_cuts_equal_the_facade(
    toy: XLMTokenizer, pair: str | None, max_length: int, truncation: str, side: str
) -> None:
    toy.truncation_side = side
    same(toy, "lower newer low wider lowest", pair, None, truncation=truncation, max_length=max_length)


def test_refusals(toy: XLMTokenizer) -> None:
    toy.lang2id = {"en": 0}
    for ask in (toy.encoder.ids, toy.encoder.ids_and_offsets, toy.encoder.tokens, toy.encoder.row):
        with pytest.raises(InputError, match=r"'de' is not one of this model's: en"):
            ask("low", lang="de")
    with pytest.raises(InputError, match="truncation='longest' is not known"):
        toy.encoder.row("low", max_length=100, truncation="longest")
    with pytest.raises(InputError, match="cannot be reached"):
        toy.encoder.row("lower low", max_length=1)


def test_ids_without_special_tokens(toy: XLMTokenizer) -> None:
    text = "lower <mask> newer"
    expected = toy(text, add_special_tokens=False, return_offsets_mapping=True)
    assert toy.encoder.ids(text) == expected["input_ids"] == toy.encode(text, add_special_tokens=False)
    assert toy.encoder.ids_and_offsets(text) == (
        expected["input_ids"],
        expected["offset_mapping"],
        expected.word_ids(),
        None,
    )


def test_tokens_that_begin_differently_are_found(toy: XLMTokenizer) -> None:
    before = toy.encoder.ids("lower newtok")
    toy.add_tokens(["newtok", AddedToken("<x>", special=True)])
    same(toy, "lower newtok<x> low", None, None)
    assert toy.encoder.ids("lower newtok") != before


def test_a_tokenizer_without_added_tokens(toy_folder: Path) -> None:
    names = ("unk", "bos", "sep", "pad", "cls", "mask")
    options: dict[str, Any] = {f"{name}_token": None for name in names}
    bare = XLMTokenizer(toy_folder / "vocab.json", toy_folder / "merges.txt", additional_special_tokens=(), **options)
    assert bare.encoder.ids("lower") == [14, 15]
    with pytest.raises(InputError, match="Special tokens need a bos_token and a sep_token"):
        bare.encoder.row("lower")


def test_it_pickles_with_its_tokenizer(toy: XLMTokenizer) -> None:
    toy.add_tokens(["newtok"])
    again = pickle.loads(pickle.dumps(toy))
    assert again.encoder.vocabulary is again.vocabulary
    assert again.encoder.row("newtok <mask> low", return_offsets=True) == toy.encoder.row(
        "newtok <mask> low", return_offsets=True
    )


def test_special_tokens_cannot_be_set(toy: XLMTokenizer) -> None:
    with pytest.raises(AttributeError, match="mask_token cannot be set"):
        toy.mask_token = "<m>"
    with pytest.raises(AttributeError, match="give pad_token to"):
        toy.pad_token_id = 3


def test_tables_read_from_sacremoses_are_saved(toy_folder: Path, tmp_path: Path) -> None:
    (toy_folder / "moses.json").unlink()
    plain = XLMTokenizer.from_pretrained(toy_folder)
    plain.save_pretrained(tmp_path / "before")
    plain("lower")
    plain.save_pretrained(tmp_path / "after")
    assert not (tmp_path / "before" / "moses.json").exists()
    assert (tmp_path / "after" / "moses.json").exists()


def test_mask_alias(toy_folder: Path) -> None:
    tokenizer = XLMTokenizer.from_pretrained(toy_folder)
    assert tokenizer("low <mask>")["input_ids"] == tokenizer("low <special1>")["input_ids"]
    assert tokenizer("low <mask>", return_offsets_mapping=True)["offset_mapping"][3] == (4, 10)
    plain = XLMTokenizer.from_pretrained(toy_folder, mask_alias=None)
    assert plain.mask_token_id not in plain("low <mask>")["input_ids"]
    tokenizer.add_tokens(["<mask>"])
    assert tokenizer("<mask>")["input_ids"][1] == tokenizer.convert_tokens_to_ids("<mask>") != tokenizer.mask_token_id


def test_caches_of_any_size_give_the_same(toy: XLMTokenizer, toy_folder: Path) -> None:
    texts = [f"lower newer{number}. 'wider' x" for number in range(50)] * 2
    expected = [toy.encoder.ids(text) for text in texts]
    for size in (0, 0.005, 1):
        tokenizer = XLMTokenizer.from_pretrained(toy_folder, cache_mb=size)
        assert tokenizer.cache_mb == size
        assert [tokenizer.encoder.ids(text) for text in texts] == expected
    toy.cache_mb = 2
    assert toy.cache_mb == pickle.loads(pickle.dumps(toy)).cache_mb == 2
    assert [toy.encoder.ids(text) for text in texts] == expected
    for wrong in (-1, float("nan"), float("inf"), True, "64"):
        with pytest.raises(InputError, match="expected a number of MiB"):
            toy.cache_mb = wrong  # type: ignore[assignment]
        with pytest.raises(InputError, match="expected a number of MiB"):
            XLMTokenizer.from_pretrained(toy_folder, cache_mb=wrong)  # type: ignore[arg-type]
