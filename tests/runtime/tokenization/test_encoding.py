"""What a call returns: rows, arrays, words and spans."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer


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
