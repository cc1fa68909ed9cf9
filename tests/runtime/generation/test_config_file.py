"""`generation_config.json`: what it sets, and what of it is not offered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xlm_runtime import BundleError, GenerationOptions, InputError
from xlm_runtime.generation.config_file import (
    GENERATION_FILE,
    generation_options,
    read_generation_config,
    without_support,
)


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({}, {}),
        ({"max_new_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 5}, {"max_new_tokens": 9}),
        ({"do_sample": True, "temperature": 0.5}, {"do_sample": True, "temperature": 0.5, "top_k": 50}),
        ({"do_sample": True, "top_k": 0, "top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
        ({"do_sample": True, "top_k": 7}, {"do_sample": True, "top_k": 7}),
        ({"length_penalty": 2.0, "early_stopping": True}, {}),
        ({"num_beams": 2, "length_penalty": 2.0}, {"num_beams": 2, "length_penalty": 2.0}),
        ({"num_beams": 2, "do_sample": True, "temperature": 0.5}, {"num_beams": 2}),
        ({"eos_token_id": 5}, {"eos_token_id": (5,)}),
        ({"eos_token_id": [5, 1]}, {"eos_token_id": (5, 1)}),
        ({"bad_words_ids": [[5, 6]], "suppress_tokens": [7, 8]}, {"bad_words_ids": ((5, 6), (7,), (8,))}),
        (
            {"bad_words_ids": [[5], [6], [5, 6]], "eos_token_id": 5},
            {"bad_words_ids": ((6,), (5, 6)), "eos_token_id": (5,)},
        ),
        ({"stop_strings": "x"}, {"stop": ("x",)}),
        ({"stop_strings": ["x", "y"], "max_new_tokens": None}, {"stop": ("x", "y")}),
    ],
)
def test_what_a_file_sets(values: dict[str, Any], options: dict[str, Any]) -> None:
    """No file leaves the configuration's end of a text; a file without one says that there is none."""
    assert generation_options(values, 100) == GenerationOptions(**{"eos_token_id": (), **options})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": "9"}, "max_new_tokens is '9'; expected a whole number"),
        ({"do_sample": True, "temperature": -1}, "temperature is -1; expected a number above 0"),
        ({"do_sample": True, "temperature": "hot"}, "temperature is 'hot'; expected a number"),
        ({"do_sample": "yes"}, "do_sample is 'yes'; expected True or False"),
        ({"eos_token_id": [1, 100]}, r"eos_token_id is \[1, 100\]; expected ids of tokens, 0 to 99"),
        ({"eos_token_id": "1"}, "eos_token_id is '1'; expected ids"),
        ({"bad_words_ids": [5]}, r"bad_words_ids is \[5\]; expected a list of lists"),
        ({"stop_strings": 5}, "stop is 5; expected a tuple of strings"),
        ({"num_return_sequences": 3}, "num_return_sequences is 3, but taking the best token has one result"),
    ],
)
def test_values_that_cannot_be_used(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"'generation_config\.json' holds options that cannot be used: {message}"):
        generation_options(values, 100)


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        ({"use_cache": True, "pad_token_id": 2, "transformers_version": "5", "typical_p": 1.0, "max_length": 20}, []),
        ({"max_length": 50, "min_length": 3}, ["max_length", "min_length"]),
        ({"max_length": 50, "max_new_tokens": 9}, []),
        ({"typical_p": 0.5, "guidance_scale": 1.5, "epsilon_cutoff": 0.0}, ["typical_p", "guidance_scale"]),
        ({"something_new": 3, "forced_eos_token_id": None}, ["something_new"]),
        ({"num_beams": 2, "do_sample": True}, ["do_sample with num_beams"]),
    ],
)
def test_what_is_not_offered(values: dict[str, Any], missing: list[str]) -> None:
    assert without_support(values) == missing


def test_files_that_are_none(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) is None
    for text in ("{", "[" * 100_000, "[]"):
        (tmp_path / GENERATION_FILE).write_text(text)
        with pytest.raises(BundleError, match=r"'generation_config\.json' .* (is not JSON|holds no JSON obj)"):
            read_generation_config(tmp_path)
    (tmp_path / GENERATION_FILE).write_text(json.dumps({"num_beams": 2}))
    assert read_generation_config(tmp_path) == {"num_beams": 2}


def test_options_replace_others_and_what_they_make_meaningless() -> None:
    drawn = GenerationOptions(do_sample=True, temperature=0.5, top_k=7, max_new_tokens=9)
    assert drawn.replace(do_sample=False) == GenerationOptions(max_new_tokens=9)
    assert drawn.replace(top_k=3).top_k == 3
    beams = GenerationOptions(num_beams=3, length_penalty=2.0)
    assert beams.replace(num_beams=1) == GenerationOptions()
    ends = GenerationOptions(eos_token_id=(1, 5), min_new_tokens=3)
    assert ends.replace(ignore_eos=True) == GenerationOptions(ignore_eos=True)
    with pytest.raises(InputError, match="only matter when tokens are drawn"):
        beams.replace(temperature=0.5)
