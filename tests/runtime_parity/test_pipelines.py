"""Pipelines against transformers' pipelines, on the checkpoints that the bundles were exported from.

transformers' pipelines pass no languages. So that theirs answer what the model was trained for, their model gets the
configuration's language on the way in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Bundles, HalfBundles
from tests.runtime.texts import LANGS, TEXTS
from tests.tolerances import RUNTIME_FP32, RUNTIME_HALF
from xlm_runtime import EngineError, pipeline

MASKED = ["The <special1> stands at the edge.", "Старый <special1> стоит на краю.", "<special1> and <special1> town"]


def checkpoint(bundles: Bundles, name: str) -> Path:
    return bundles(name).parent / "checkpoints" / name


def theirs(bundles: Bundles, task: str, name: str) -> Any:
    return transformers.pipeline(task, str(checkpoint(bundles, name)), device="cpu")


def same(ours: Any, other: Any, keys: tuple[str, ...]) -> None:
    """Equal entries, and scores within the limit."""
    assert len(ours) == len(other)
    for one, two in zip(ours, other, strict=True):
        assert [one[key] for key in keys] == [two[key] for key in keys]
        np.testing.assert_allclose(one.get("score", 0), two.get("score", 0), atol=RUNTIME_FP32)


def test_feature_extraction(bundles: Bundles) -> None:
    pipe = theirs(bundles, "feature-extraction", "feature-extraction")
    for text, ours in zip(TEXTS, pipeline("feature-extraction", bundles("feature-extraction"))(TEXTS), strict=True):
        np.testing.assert_allclose(ours, np.array(pipe(text))[0], rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def test_feature_extraction_with_languages(bundles: Bundles) -> None:
    folder = checkpoint(bundles, "feature-extraction")
    model = transformers.XLMModel.from_pretrained(folder).eval()
    tokenizer = transformers.XLMTokenizer.from_pretrained(folder)
    answers = pipeline("feature-extraction", bundles("feature-extraction"))(TEXTS, lang=LANGS)
    for text, lang, ours in zip(TEXTS, LANGS, answers, strict=True):
        ids = tokenizer.convert_tokens_to_ids(tokenizer._tokenize(text, lang=lang))
        input_ids = torch.tensor([tokenizer.build_inputs_with_special_tokens(ids)])
        langs = torch.full_like(input_ids, model.config.lang2id[lang])
        with torch.no_grad():
            expected = model(input_ids=input_ids, langs=langs).last_hidden_state[0].numpy()
        np.testing.assert_allclose(ours, expected, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def test_fill_mask(bundles: Bundles) -> None:
    keys = ("token", "token_str", "sequence")
    pipe = theirs(bundles, "fill-mask", "fill-mask")
    ours = pipeline("fill-mask", bundles("fill-mask"))
    for text in MASKED[:2]:
        same(ours(text), pipe(text), keys)
        same(ours(text, targets=["town</w>", "old</w>"]), pipe(text, targets=["town</w>", "old</w>"]), keys)
    for one, two in zip(ours(MASKED[2], top_k=3), pipe(MASKED[2], top_k=3), strict=True):
        same(one, two, keys)


def test_text_classification(bundles: Bundles) -> None:
    pipe = theirs(bundles, "text-classification", "text-classification")
    ours = pipeline("text-classification", bundles("text-classification"))
    pair = {"text": TEXTS[0], "text_pair": TEXTS[1]}
    for text in (*TEXTS, pair):
        for function in (None, "sigmoid", "none"):
            options = {"top_k": None, "function_to_apply": function}
            same(ours(text, **options), pipe(text, **options), ("label",))
    same(ours(TEXTS), pipe(TEXTS), ("label",))


def test_zero_shot_classification(bundles: Bundles) -> None:
    pipe = theirs(bundles, "zero-shot-classification", "text-classification")
    ours = pipeline("zero-shot-classification", bundles("text-classification"))
    for multi_label in (False, True):
        other = pipe(TEXTS[:3], ["sea", "film", "work"], multi_label=multi_label)
        for one, two in zip(ours(TEXTS[:3], ["sea", "film", "work"], multi_label=multi_label), other, strict=True):
            assert (one["sequence"], one["labels"]) == (two["sequence"], two["labels"])
            np.testing.assert_allclose(one["scores"], two["scores"], atol=RUNTIME_FP32)


def test_token_classification(bundles: Bundles) -> None:
    pipe = theirs(bundles, "token-classification", "token-classification")
    ours = pipeline("token-classification", bundles("token-classification"))
    for text in TEXTS:
        same(ours(text), pipe(text), ("entity", "index", "word"))
        other = pipe(text, aggregation_strategy="simple")
        same(ours(text, aggregation_strategy="simple"), other, ("entity_group", "word"))
        for ignored in ([], ["O", "B-PER", "LOC"]):
            options = {"ignore_labels": ignored, "aggregation_strategy": "simple"}
            same(ours(text, **options), pipe(text, **options), ("entity_group", "word"))
            same(ours(text, ignore_labels=ignored), pipe(text, ignore_labels=ignored), ("entity", "index", "word"))


def test_multiple_choice(bundles: Bundles) -> None:
    folder = checkpoint(bundles, "multiple-choice")
    model = transformers.XLMForMultipleChoice.from_pretrained(folder).eval()
    tokenizer = transformers.XLMTokenizer.from_pretrained(folder)
    choices = ["Yes.", "The book was better.", "Маяк стоит."]
    # each choice alone, unpadded: their batch would read padding with other summary types than "first"
    logits = []
    for choice in choices:
        input_ids = tokenizer(TEXTS[0], choice, return_tensors="pt")["input_ids"][None]
        with torch.no_grad():
            output = model(input_ids=input_ids)
        logits.append(output.logits[0, 0])
    expected = torch.stack(logits).softmax(0).numpy()
    ours = pipeline("multiple-choice", bundles("multiple-choice"))(TEXTS[0], choices)
    np.testing.assert_allclose(ours["scores"], expected, atol=RUNTIME_FP32)
    assert ours["choice"] == choices[expected.argmax()]


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.slow)])
def test_half_precision(bundles: Bundles, half_bundles: HalfBundles, precision: str) -> None:
    pytest.importorskip("openvino", reason="bf16 graphs run in OpenVINO on the CPU")
    half = half_bundles("feature-extraction", precision)
    expected = pipeline("feature-extraction", bundles("feature-extraction"))(TEXTS)
    for provider in ("cpu", "openvino"):
        if (provider, precision) == ("cpu", "bf16"):
            with pytest.raises(EngineError, match="bf16 has none on the CPU"):
                pipeline("feature-extraction", half)
            continue
        answers = pipeline("feature-extraction", half, provider, precision=precision)(TEXTS)
        for ours, other in zip(answers, expected, strict=True):
            assert ours.dtype == np.float32
            assert np.abs(ours - other).max() < RUNTIME_HALF[precision] * np.abs(other).max()
