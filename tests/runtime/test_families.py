"""The table of families, and `config.json` by its model type."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xlm_runtime import BundleError, InputError, XLMConfig, XLMTokenizer
from xlm_runtime.families import FAMILIES, XLM, family_of, read_config


def write(folder: Path, values: Any) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_a_configuration_is_read_by_its_model_type(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, {"model_type": "xlm", "n_words": 40}))
    assert config == XLMConfig.from_pretrained(tmp_path) == XLMConfig(vocab_size=40)
    assert config.to_dict()["model_type"] == "xlm"
    assert family_of(config) is XLM
    assert read_config(write(tmp_path, {"vocab_size": 40})) == config, "files of 2019 name no model type"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"model_type": "xlm-roberta"},
            r"'xlm-roberta', expected 'xlm'( or 'flaubert')?\. XLM-RoBERTa is another architecture",
        ),
        (
            {"model_type": "gpt2"},
            r"'gpt2', expected 'xlm'( or 'flaubert')?\. Only model_type 'xlm'( or 'flaubert')? can",
        ),
        ([], "must hold a JSON object"),
    ],
)
@pytest.mark.parametrize("read", [read_config, XLMConfig.from_pretrained])
def test_other_files_are_refused(read: Any, values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=message):
        read(write(tmp_path, values))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"'config\.json' not found"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        read_config(tmp_path)
    with pytest.raises(InputError, match="emb_dim 15 is not a multiple"):
        read_config(write(tmp_path, {"emb_dim": 15}))


def test_the_rows(bundles: Any) -> None:
    for model_type, family in FAMILIES.items():
        assert family.model_type == model_type == family.config.model_type
    assert XLM.architecture("ForSequenceClassification") == "XLMForSequenceClassification"
    tokenizer = XLM.read_tokenizer(bundles("fill-mask"))
    assert type(tokenizer) is XLMTokenizer
    assert XLM.prompt_start_id(tokenizer) == tokenizer.sep_token_id
    config = read_config(bundles("fill-mask"))
    assert XLM.prompt_mask_id(config, tokenizer) == config.mask_token_id == 5
    config.mask_token_id = None
    assert XLM.prompt_mask_id(config, tokenizer) == tokenizer.mask_token_id
    config.causal = True
    assert XLM.prompt_mask_id(config, tokenizer) is None
