"""`config.json`: every option has its type and its range, whatever the file says."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from xlm_runtime import BundleError, InputError
from xlm_runtime.config import XLMConfig
from xlm_runtime.families import read_config

ODD = (None, True, -1, 10**400, 1.5, float("nan"), float("inf"), "x", "", [], ["x"], [None], {}, {"x": []}, {"0": None})


def read(folder: Path, text: Any) -> XLMConfig:
    (folder / "config.json").write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return read_config(folder)


@pytest.mark.parametrize("name", [*(field.name for field in dataclasses.fields(XLMConfig)), "num_labels", "n_words"])
def test_no_option_reaches_the_model_with_another_type(name: str, tmp_path: Path) -> None:
    for value in ODD:
        try:
            config = read(tmp_path, {name: value})
        except InputError:
            continue
        assert read(tmp_path, config.to_dict()).to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_layers": "12"}, 'n_layers is "12"; expected a whole number'),
        ({"n_layers": 12.0}, "n_layers is 12.0; expected a whole number"),
        ({"n_layers": True}, "n_layers is true; expected a whole number"),
        ({"n_layers": 300000}, "n_layers is 300000; expected 1 to 512"),
        ({"n_layers": 0}, "n_layers is 0; expected 1 to 512"),
        ({"vocab_size": 10**12}, "vocab_size is 1000000000000; expected 1 to 10,000,000"),
        ({"num_labels": 10**9}, "num_labels is 1000000000; expected a whole number from 1 to 100,000"),
        ({"num_labels": "3"}, 'num_labels is "3"; expected a whole number'),
        ({"num_labels": 3, "id2label": {"0": "a", "1": "b"}}, "num_labels is 3, but id2label has 2 labels"),
        ({"dropout": "a lot"}, 'dropout is "a lot"; expected a number'),
        ({"dropout": 2}, "dropout is 2; expected 0 to 1"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps is NaN; expected a number"),
        ({"causal": "yes"}, 'causal is "yes"; expected true or false'),
        ({"lang2id": ["de"]}, r'lang2id is \["de"\]; expected an object of whole numbers by strings or null'),
        ({"id2lang": {"a": "de"}}, 'id2lang has the key "a"; expected whole numbers'),
        ({"eos_token_id": [1, "2"]}, r'eos_token_id is \[1, "2"\]; expected a whole number or a list of whole numbers'),
        ({"pad_token_id": 99, "vocab_size": 50}, "pad_token_id is 99; expected the id of a token, 0 to 49"),
        ({"architectures": "XLMModel"}, 'architectures is "XLMModel"; expected a list of strings or null'),
        ({"asm": True, "asm_cutoffs": [9, 4]}, r"asm_cutoffs is \[9, 4\].*expected rising cutoffs"),
        ({"asm": True, "asm_cutoffs": [4, 9], "asm_div_value": 999}, "asm_div_value 999"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label has the keys 0, 2; expected 0 to 1, one for each"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label has the keys 1, 2; expected 0 to 1"),
        ({"id2label": {"0": "a", "1": None}}, "id2label has null for 1; expected a name"),
        ({"id2label": {"0": ["a"]}}, r'id2label has \["a"\] for 0; expected a name'),
        ({"id2label": {"a": "b"}}, 'id2label has the key "a"; expected whole numbers'),
        ({"id2label": {"1": "a", "01": "b"}}, "id2label has the key 1 twice"),
        ({"id2label": {}}, "id2label has the keys of no label"),
        ({"id2label": ["a", "b"]}, r'id2label is \["a", "b"\]; expected an object'),
    ],
)
def test_the_message_names_value_and_expectation(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, options)


def test_labels_that_are_numbers_become_strings(tmp_path: Path) -> None:
    config = read(tmp_path, {"id2label": {"1": 0.5, "0": 0, "2": True, "3": "x"}})
    assert config.id2label == {0: "0", 1: "0.5", 2: "true", 3: "x"}
    assert config.num_labels == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must hold a JSON object, got list"),
        ('{"model_type": ["xlm"]}', r"has model_type \['xlm'\], expected 'xlm'"),
        ('{"model_type": null}', "has model_type None, expected 'xlm'"),
    ],
)
def test_files_that_are_no_configuration(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        read(tmp_path, text)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
def test_a_pipe_in_place_of_the_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BundleError, match="is a pipe, expected a regular file"):
        read_config(tmp_path)
