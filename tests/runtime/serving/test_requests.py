"""Bodies that are no JSON objects of Unicode texts."""

from __future__ import annotations

import pytest

from xlm_runtime.errors import InputError
from xlm_runtime.serving.requests import read_object


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "a \\udbff b"])
def test_half_a_surrogate_pair_is_refused(half: str) -> None:
    """Neither an error that quotes it nor an answer that repeats it could be written."""
    for body in (f'{{"inputs": "{half}"}}', f'{{"inputs": [{{"{half}": 1}}]}}'):
        with pytest.raises(InputError, match="half of a surrogate pair"):
            read_object(body.encode())


def test_whole_pairs_and_backslashes_pass() -> None:
    assert read_object(rb'{"inputs": "\ud83d\ude00 \\ud800"}') == {"inputs": "\U0001f600 \\ud800"}
