"""The 15-language vocabulary on seeded weights of its configuration, and XQuAD paragraphs in six languages."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Exported
from tests.make_checkpoint import make_checkpoint
from tests.paths import SHARED
from tests.sharing import make_once
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import pipeline

DATA = SHARED
VOCABULARY = DATA / "xlm-mlm-tlm-xnli15-1024"
LANGUAGES = ("en", "de", "es", "ru", "zh", "ar")
PARAGRAPHS = 3
MASK = "<special1>"

pytestmark = [
    pytest.mark.slow(seconds=12),
    pytest.mark.shared,
    pytest.mark.skipif(not VOCABULARY.is_dir(), reason="the reference data folder ../shared/data is absent"),
]


@pytest.fixture(scope="module")
def checkpoint(shared_folder: Path) -> Path:
    """The official configuration with one of its layers, weights as XLM draws them before training."""
    official = json.loads((DATA / "xlm_official_configs.json").read_text())["configs"]["xlm-mlm-tlm-xnli15-1024"]
    options = {name: value for name, value in official.items() if name != "gelu"}
    options |= {"n_layers": 1, "gelu_activation": official["gelu"], "init_std": 0.02, "embed_init_std": 1024**-0.5}

    def make(folder: Path) -> None:
        make_checkpoint(folder, "XLMWithLMHeadModel", **options)
        for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
            shutil.copy(VOCABULARY / name, folder / name)

    return make_once(shared_folder / "checkpoints" / "real-vocabulary", make)


@pytest.fixture(scope="module")
def tokenizer(checkpoint: Path) -> Any:
    return transformers.XLMTokenizer.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> Any:
    return transformers.XLMWithLMHeadModel.from_pretrained(checkpoint).eval()


def paragraphs(lang: str) -> list[str]:
    """The first paragraph, and the longest ones, which are beyond 512 tokens in some languages."""
    articles = json.loads((DATA / "xquad" / f"xquad.{lang}.json").read_text(encoding="utf-8"))["data"]
    texts = [paragraph["context"] for article in articles for paragraph in article["paragraphs"]]
    return [texts[0], *sorted(texts, key=len)[-PARAGRAPHS + 1 :]]


def input_ids(tokenizer: Any, text: str, lang: str | None) -> torch.Tensor:
    """transformers' ids, (1, at most 512); a mask in the text stays whole."""
    if lang is None:
        return tokenizer(text, truncation=True, max_length=512, return_tensors="pt")["input_ids"]
    tokens: list[str] = []
    for i, part in enumerate(text.split(MASK)):
        tokens += ([MASK] if i else []) + tokenizer._tokenize(part, lang=lang)
    ids = tokenizer.convert_tokens_to_ids(tokens)[:510]
    return torch.tensor([tokenizer.build_inputs_with_special_tokens(ids)])


def langs(model: Any, ids: torch.Tensor, lang: str | None) -> torch.Tensor | None:
    return None if lang is None else torch.full_like(ids, model.config.lang2id[lang])


@pytest.fixture(scope="module")
def features(checkpoint: Path, exported: Exported) -> Any:
    return pipeline("feature-extraction", exported(checkpoint, task="feature-extraction", verify=False))


@pytest.fixture(scope="module")
def masks(checkpoint: Path, exported: Exported) -> Any:
    return pipeline("fill-mask", exported(checkpoint, verify=False))


@pytest.mark.parametrize("with_lang", [False, True])
def test_feature_extraction(features: Any, tokenizer: Any, model: Any, with_lang: bool) -> None:
    cut = 0
    for language in LANGUAGES:
        lang = language if with_lang else None
        for text, ours in zip(
            paragraphs(language), features(paragraphs(language), lang=lang, truncation=True), strict=True
        ):
            ids = input_ids(tokenizer, text, lang)
            with torch.no_grad():
                expected = model.transformer(input_ids=ids, langs=langs(model, ids, lang)).last_hidden_state[0]
            assert ours.shape == tuple(expected.shape)
            np.testing.assert_allclose(ours, expected.numpy(), rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
            cut += len(ours) == 512
    assert cut > 0


@pytest.mark.parametrize("with_lang", [False, True])
def test_fill_mask(masks: Any, tokenizer: Any, model: Any, with_lang: bool) -> None:
    for language in LANGUAGES:
        lang = language if with_lang else None
        texts = [f"{text[:20]} {MASK} {text[20:]}" for text in paragraphs(language)]
        for text, filled in zip(texts, masks(texts, lang=lang, truncation=True, top_k=10), strict=True):
            ids = input_ids(tokenizer, text, lang)
            (position,) = (ids[0] == tokenizer.mask_token_id).nonzero()[0].tolist()
            with torch.no_grad():
                hidden = model.transformer(input_ids=ids, langs=langs(model, ids, lang)).last_hidden_state
                expected = model.pred_layer(hidden[0, position])[0].log_softmax(-1)
            # words of almost equal probability may change places: compare each word's, and the tenth's
            ours = np.log([item["score"] for item in filled])
            tokens = [item["token"] for item in filled]
            np.testing.assert_allclose(ours, expected[tokens].numpy(), rtol=0, atol=RUNTIME_FP32)
            np.testing.assert_allclose(ours, expected.topk(10).values.numpy(), rtol=0, atol=RUNTIME_FP32)
