"""Graphs that take token types, as checkpoints need that transformers 4 fine-tuned, against its calls."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Bundles, Exported
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import BundleError, pipeline

QUESTION, CONTEXT = "Who works there?", "Anna works at the old lighthouse of the town."


def theirs(checkpoint: Path, model_class: str, *texts: str) -> dict[str, np.ndarray]:
    """transformers' outputs with the token types that its tokenizer gives on request, and gave always in version 4."""
    model = getattr(transformers, model_class).from_pretrained(checkpoint).eval()
    tokenizer = transformers.XLMTokenizer.from_pretrained(checkpoint)
    encoding = tokenizer(*texts, return_token_type_ids=True, return_tensors="pt")
    assert encoding["token_type_ids"].max() == len(texts) - 1
    with torch.inference_mode():
        return {name: value[0].numpy() for name, value in model(**encoding).items() if value is not None}


# padded rows with token types are those of `test_question_answering`, pairs are those of the packed layout
@pytest.mark.parametrize("layout", [pytest.param("padded", marks=pytest.mark.slow(seconds=5)), "packed"])
def test_text_classification(bundles: Bundles, exported: Exported, layout: str) -> None:
    checkpoint = bundles("text-classification").parent / "checkpoints" / "text-classification"
    folder = exported(checkpoint, inputs=("token_type_ids",), layout=layout, verify=False)
    pipe = pipeline("text-classification", folder)
    pair = {"text": QUESTION, "text_pair": CONTEXT}
    for answer, texts in zip(
        pipe([pair, CONTEXT], top_k=None, function_to_apply="none"), ((QUESTION, CONTEXT), (CONTEXT,)), strict=True
    ):
        logits = theirs(checkpoint, "XLMForSequenceClassification", *texts)["logits"]
        scores = {row["label"]: row["score"] for row in answer}
        ours = [scores[label] for label in pipe.model.config.id2label.values()]
        np.testing.assert_allclose(ours, logits, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def test_question_answering(bundles: Bundles, exported: Exported) -> None:
    checkpoint = bundles("question-answering-simple").parent / "checkpoints" / "question-answering-simple"
    pipe = pipeline("question-answering", exported(checkpoint, inputs=("token_type_ids",), verify=False))
    windows = pipe.preprocess({"question": QUESTION, "context": CONTEXT}, None, options_of(pipe))
    (outputs,) = pipe.forward(windows, options_of(pipe))()
    expected = theirs(checkpoint, "XLMForQuestionAnsweringSimple", QUESTION, CONTEXT)
    for name in ("start_logits", "end_logits"):
        np.testing.assert_allclose(outputs[name], expected[name], rtol=RUNTIME_FP32, atol=RUNTIME_FP32)


def options_of(pipe: Any) -> Any:
    from xlm_runtime.question_answering.options import resolve_options

    return resolve_options(pipe.model.config.max_position_embeddings)


def test_generation_gives_none_as_transformers_does(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-generation"), tmp_path / "bundle"))
    values = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    values["graphs"][0]["inputs"].append({"name": "token_type_ids", "dtype": "int64", "axes": ["batch", "sequence"]})
    (folder / "bundle.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(BundleError, match="asks for token_type_ids, which pipelines do not give"):
        pipeline("text-generation", folder)
