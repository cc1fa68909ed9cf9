"""Options that are refused before any work."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from xlm_runtime import GenerationOptions, InputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; expected a whole number, 1 or more"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"num_beams": True}, "num_beams is True"),
        ({"num_beams": 2**31}, "num_beams is 2147483648; expected at most 16,384"),
        ({"num_return_sequences": 2**63, "do_sample": True}, "num_return_sequences is 9223372036854775808; expected"),
        ({"seed": -1, "do_sample": True}, "seed is -1; expected a whole number, 0 or more"),
        ({"temperature": 0.0, "do_sample": True}, "temperature is 0.0; expected a number above 0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p is 1.5"),
        ({"top_k": 0, "do_sample": True}, "top_k is 0"),
        ({"early_stopping": "maybe", "num_beams": 2}, "early_stopping is 'maybe'; expected True, False or 'never'"),
        ({"stop": "end"}, "stop is 'end'; expected a tuple of strings"),
        ({"num_beams": 2, "length_penalty": float("nan")}, "length_penalty is nan; expected a number"),
        ({"temperature": 10**400, "do_sample": True}, "temperature is 10+; expected a number"),
        ({"bad_words_ids": ((5, "x"),)}, "bad_words_ids is .* expected a tuple of tuples of ids"),
        ({"bad_words": ("",)}, "bad_words is .* none of them empty"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens 9 is above max_new_tokens 8"),
        ({"ignore_eos": True, "min_new_tokens": 2}, "ignore_eos makes"),
        ({"temperature": 0.5, "top_k": 3}, "temperature, top_k only matter when tokens are drawn; set do_sample=True"),
        ({"seed": 1}, "seed only matter"),
        ({"length_penalty": 2.0}, "only matter with beams"),
        ({"num_return_sequences": 2}, "taking the best token has one result"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences 3 is above num_beams 2"),
        ({"num_beams": 2, "do_sample": True}, "exclude each other"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        GenerationOptions(**options)


def test_options_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        GenerationOptions().num_beams = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="num_beam"):
        GenerationOptions(num_beam=2)  # type: ignore[call-arg]
