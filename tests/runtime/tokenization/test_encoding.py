"""Windows, arrays, rows and refusals of a call."""

from __future__ import annotations

import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.options import Truncation
from xlm_runtime.tokenization.windows import windows

OVERFLOW = Truncation("only_second", 16, "right", 3, overflow=True)


@given(st.integers(0, 60), st.integers(1, 8), st.integers(0, 3), st.sampled_from(["left", "right"]))
def test_windows_cover_the_sequence_and_share_the_stride(length: int, room: int, stride: int, side: str) -> None:
    stride = min(stride, room - 1)
    options = OVERFLOW._replace(stride=stride, max_length=5 + room + 3, side=side)
    made = windows(5, length, 3, options)
    ranges = [window.second for window in made if window.second is not None]
    assert all(window.first == (0, 5) for window in made)
    assert all(stop - start <= room for start, stop in ranges)
    ordered = sorted(ranges)
    assert (ordered[0][0], ordered[-1][1]) == (0, length)
    for (_, stop), (start, _) in pairwise(ordered):
        assert stop - start >= stride
    steady = ranges[:-1]
    assert all(abs(a[0] - b[0]) == room - stride for a, b in pairwise(steady))


def test_overflow_of_a_pair(toy: XLMTokenizer) -> None:
    encoding = toy(
        ["lower", "low"],
        ["low lower", "low"],
        truncation="only_second",
        max_length=8,
        stride=1,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding=True,
        return_tensors="np",
    )
    # lower → low er</w>, low → lo w</w>: the second has 4 tokens and room for 3
    assert encoding["overflow_to_sample_mapping"].tolist() == [0, 0, 1]
    assert encoding["input_ids"].shape == (3, 8)
    assert encoding["offset_mapping"].shape == (3, 8, 2)
    spans = [[0, 0], [0, 3], [3, 5], [0, 0], [4, 7], [7, 9], [0, 0], [0, 0]]
    assert encoding["offset_mapping"][1].tolist() == spans
    assert encoding.sequence_ids(1) == [None, 0, 0, None, 1, 1, None, None]
    assert encoding.word_ids(1) == [None, 0, 0, None, 1, 1, None, None]
    assert encoding.tokens(2)[-2:] == ["</s>", "<pad>"]


def test_a_single_text_with_overflow_is_a_batch(toy: XLMTokenizer) -> None:
    encoding = toy("low low", truncation=True, max_length=4, return_overflowing_tokens=True, return_length=True)
    assert encoding["input_ids"] == [toy.encode("low"), toy.encode("low")]
    assert encoding["length"] == [4, 4]
    assert encoding["overflow_to_sample_mapping"] == [0, 0]


def test_arrays(toy: XLMTokenizer) -> None:
    encoding = toy(["lower", "low wider"], padding=True, pad_to_multiple_of=4, return_tensors="np")
    assert encoding["input_ids"].dtype == np.int64
    assert encoding.input_ids.shape == encoding.attention_mask.shape == (2, 8)
    assert toy("lower", return_tensors="np")["input_ids"].shape == (1, 4)
    with pytest.raises(InputError, match="padding=True"):
        toy(["lower", "low wider"], return_tensors="np")


def test_left_padding_moves_everything(toy: XLMTokenizer) -> None:
    encoding = toy(["lower low", "low"], padding=True, padding_side="left", return_offsets_mapping=True)
    assert encoding["attention_mask"][1] == [0, 0, 1, 1, 1, 1]
    assert encoding.word_ids(1) == [None, None, None, 0, 0, None]
    assert encoding["offset_mapping"][1] == [(0, 0), (0, 0), (0, 0), (0, 2), (2, 3), (0, 0)]


def test_words_given_number_the_tokens(toy: XLMTokenizer) -> None:
    encoding = toy(["lower,", "newer wider"], is_split_into_words=True, return_offsets_mapping=True)
    numbers = [number for number in encoding.word_ids() if number is not None]
    assert (numbers == sorted(numbers), set(numbers)) == (True, {0, 1})
    assert encoding["offset_mapping"][1] == (0, 3)


def test_words_and_spans_after_pickling(toy: XLMTokenizer) -> None:
    encoding = toy(["lower low", "low"], ["low", "wider"], padding=True)
    again = pickle.loads(pickle.dumps(encoding))
    assert dict(again) == dict(encoding)
    for row in (0, 1, -1):
        assert again.word_ids(row) == encoding.word_ids(row)
        assert again.sequence_ids(row) == encoding.sequence_ids(row)
        assert again.tokens(row) == encoding.tokens(row)
    with pytest.raises(IndexError):
        encoding.tokens(2)


def test_one_language_or_one_for_each(toy_folder: Any) -> None:
    tokenizer = XLMTokenizer(toy_folder / "vocab.json", toy_folder / "merges.txt", lang2id={"en": 0, "fr": 1})
    both = tokenizer(["l'or", "l'or"], lang=["en", "fr"])["input_ids"]
    assert both == [tokenizer("l'or", lang="en")["input_ids"], tokenizer("l'or", lang="fr")["input_ids"]]
    assert tokenizer.id2lang == {0: "en", 1: "fr"}
    with pytest.raises(InputError, match=r"'de' is not one of this model's: en, fr"):
        tokenizer("low", lang="de")
    with pytest.raises(InputError, match="2 languages for 1 texts"):
        tokenizer("low", lang=["en", "fr"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "longer"}, "padding='longer' is not known"),
        ({"truncation": "first"}, "truncation='first' is not known"),
        ({"padding_side": "top"}, "padding_side='top'"),
        ({"max_length": -1, "truncation": True}, "max_length must be"),
        ({"max_length": 2.5}, "max_length must be"),
        ({"stride": -1}, "stride must be"),
        ({"pad_to_multiple_of": 0}, "pad_to_multiple_of must be"),
        ({"max_length": 10, "padding": True, "truncation": True, "pad_to_multiple_of": 8}, "not a multiple"),
        ({"max_length": 1, "truncation": True}, "cannot be reached"),
        ({"max_length": 4, "truncation": True, "stride": 2, "return_overflowing_tokens": True}, "stride=2 must be"),
        ({"return_tensors": "pt"}, "use 'np'"),
        ({"padding": []}, "has a type"),
    ],
)
def test_options_that_are_refused(toy: XLMTokenizer, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy("lower low wider", **options)


def test_unknown_options_are_refused(toy: XLMTokenizer) -> None:
    with pytest.raises(TypeError):
        toy("low", return_everything=True)  # type: ignore[call-arg]


@pytest.mark.parametrize("text", [None, 5, b"low", [None], [5.0], {"a": 1}, [("a", "b", "c")], [["low", 3]]])
def test_inputs_that_are_no_text(toy: XLMTokenizer, text: Any) -> None:
    with pytest.raises(InputError):
        toy(text)


def test_empty_inputs(toy: XLMTokenizer) -> None:
    assert toy("")["input_ids"] == [toy.bos_token_id, toy.sep_token_id]
    assert toy([])["input_ids"] == []
    assert toy([], padding=True)["input_ids"] == []
    assert toy("", return_offsets_mapping=True).word_ids() == [None, None]


def test_pairs_as_tuples_and_ids(toy: XLMTokenizer) -> None:
    assert toy([("low", "wider")])["input_ids"] == toy(["low"], ["wider"])["input_ids"]
    assert toy([14, 15])["input_ids"] == toy("lower")["input_ids"]
    with pytest.raises(InputError, match="length of text"):
        toy(["low"], ["a", "b"])


def test_mask_alias(toy_folder: Any) -> None:
    tokenizer = XLMTokenizer.from_pretrained(toy_folder)
    assert tokenizer("low <mask>")["input_ids"] == tokenizer("low <special1>")["input_ids"]
    assert tokenizer("low <mask>", return_offsets_mapping=True)["offset_mapping"][3] == (4, 10)
    plain = XLMTokenizer.from_pretrained(toy_folder, mask_alias=None)
    assert plain.mask_token_id not in plain("low <mask>")["input_ids"]
    tokenizer.add_tokens(["<mask>"])
    assert tokenizer("<mask>")["input_ids"][1] == tokenizer.convert_tokens_to_ids("<mask>") != tokenizer.mask_token_id
