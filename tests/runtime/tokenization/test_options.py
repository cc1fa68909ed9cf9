"""Options of padding and truncation that are refused."""

from __future__ import annotations

from typing import Any

import pytest

from xlm_runtime.errors import InputError
from xlm_runtime.tokenization import XLMTokenizer


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
