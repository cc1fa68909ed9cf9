"""The demo checkpoints: they load in transformers and here, answer alike, and fit the size they were promised in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from tests.tolerances import TRAINED_PARITY
from xlm_export.checkpoint.checkpoint import load_checkpoint
from xlm_runtime.tokenization import XLMTokenizer

CHECKPOINTS = Path(__file__).resolve().parents[2] / "examples" / "checkpoints"
pytestmark = pytest.mark.skipif(
    not CHECKPOINTS.is_dir(), reason="examples/checkpoints is not there: python -m examples.train_demo makes them"
)
NAMES = sorted(path.parent.name for path in CHECKPOINTS.glob("*/config.json"))
TEXTS = ["Anna Miller lives in London.", "Пётр Коваль работает в компании Волга Банк.", "王小明住在北京。"]


@pytest.mark.parametrize("name", NAMES)
def test_outputs_equal_transformers(name: str) -> None:
    ours = load_checkpoint(CHECKPOINTS / name)
    theirs, report = getattr(transformers, ours.architecture).from_pretrained(
        CHECKPOINTS / name, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not ours.new_weights
    tokenizer = XLMTokenizer.from_pretrained(CHECKPOINTS / name)
    for text in TEXTS:
        ids = torch.tensor(tokenizer(text, lang="en")["input_ids"])[None]
        inputs = {"input_ids": ids, "langs": torch.full_like(ids, ours.config.lang_id or 0)}
        if "choice" in name:
            inputs = {key: value[:, None] for key, value in inputs.items()}
        with torch.no_grad():
            expected, found = theirs.eval()(**inputs), ours.model(**inputs)
        key = next(key for key in ("logits", "cls_logits", "last_hidden_state") if key in expected)
        limit = TRAINED_PARITY * expected[key].abs().max().item()
        torch.testing.assert_close(getattr(found, key), expected[key], atol=limit, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_tokenizer_equals_transformers(name: str) -> None:
    ours = XLMTokenizer.from_pretrained(CHECKPOINTS / name)
    theirs = transformers.XLMTokenizer.from_pretrained(CHECKPOINTS / name)
    for text in TEXTS:
        assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def test_size() -> None:
    files = [path for path in CHECKPOINTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12_000_000
    assert {"body", "fill-mask", "language-id", "nli", "ner", "qa", "choice", "clm"} == set(NAMES)
