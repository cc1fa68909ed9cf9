"""A family is two rows of tables: one that is no part of the packages goes all the way from checkpoint to answer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Exported
from tests.export.families.toy import RUNTIME, TOY, ToyXLMConfig, ToyXLMTokenizer
from tests.make_checkpoint import make_checkpoint
from tests.sharing import make_once
from tests.tolerances import RUNTIME_FP32
from xlm_export import CheckpointError, export, load_checkpoint
from xlm_export.exporting import verify
from xlm_export.families import table
from xlm_export.onnx_graph.file import open_model
from xlm_export.optimization import optimize
from xlm_export.quantization import quantize
from xlm_export.quantization.products import find_products
from xlm_runtime import Bundle, BundleError, InputError, families, pipeline
from xlm_runtime.families import read_config
from xlm_runtime.tasks import find_task

CLASSIFIER, LM = "ToyXLMForSequenceClassification", "ToyXLMWithLMHeadModel"
TEXTS = ["The old lighthouse stands at the edge.", "This film is very good, but the book was better than the film."]


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, RUNTIME.model_type, RUNTIME)
    monkeypatch.setitem(table.FAMILIES, RUNTIME.model_type, TOY)


def toy_checkpoint(folder: Path, architecture: str) -> Path:
    # ids of languages belong to XLM's language embeddings, which the family has not
    return make_checkpoint(folder, architecture, family=TOY, n_langs=1, id2label={0: "no", 1: "yes", 2: "perhaps"})


@pytest.fixture
def classifier(shared_folder: Path) -> Path:
    """The checkpoint of a classifier. Tests must not change the folder."""
    return make_once(shared_folder / "checkpoints" / CLASSIFIER, lambda path: toy_checkpoint(path, CLASSIFIER))


@pytest.mark.parametrize("layout", ["padded", pytest.param("packed", marks=pytest.mark.slow)])
def test_text_classification(layout: str, classifier: Path, exported: Exported) -> None:
    checkpoint, folder = classifier, exported(classifier, layout=layout)
    opened = Bundle.load(folder)
    assert opened.verification["status"] == "passed"
    assert (opened.task, opened.architecture) == ("text-classification", CLASSIFIER)
    assert isinstance(opened.config, ToyXLMConfig)
    assert opened.config.pre_norm

    pipe = pipeline("text-classification", folder)
    assert type(pipe.model.tokenizer) is ToyXLMTokenizer
    model = load_checkpoint(checkpoint).model
    for text, answer in zip(TEXTS, pipe(TEXTS, top_k=None), strict=True):
        ids = torch.tensor([pipe.model.tokenizer(text)["input_ids"]])
        with torch.inference_mode():
            want = model(ids, torch.ones_like(ids)).logits.softmax(-1)[0].numpy()
        got = {item["label"]: item["score"] for item in answer}
        np.testing.assert_allclose([got[label] for label in ("no", "yes", "perhaps")], want, atol=RUNTIME_FP32)


@pytest.mark.parametrize("layout", ["padded", pytest.param("packed", marks=pytest.mark.slow)])
def test_fill_mask(layout: str, tmp_path: Path) -> None:
    checkpoint = toy_checkpoint(tmp_path / "checkpoint", LM)
    assert "lm_head.weight" not in load_file(checkpoint / "model.safetensors"), "it is tied to the embeddings"
    export(checkpoint, tmp_path / "bundle", layout=layout, verify=False)
    assert verify(tmp_path / "bundle", checkpoint).status == "passed"

    pipe = pipeline("fill-mask", tmp_path / "bundle")
    text = "The old <mask> stands at the edge."
    ids = torch.tensor([pipe.model.tokenizer(text)["input_ids"]])
    model = load_checkpoint(checkpoint).model
    with torch.inference_mode():
        scores = model(ids, torch.ones_like(ids)).logits[ids == pipe.model.tokenizer.mask_token_id][0].softmax(-1)
    assert pipe(text)[0]["token"] == int(scores.argmax())


@pytest.mark.parametrize("layout", ["padded", pytest.param("packed", marks=pytest.mark.slow)])
def test_graphs_are_optimised_and_quantised_by_the_familys_names(
    layout: str, classifier: Path, exported: Exported, tmp_path: Path
) -> None:
    shutil.copytree(exported(classifier, layout=layout), tmp_path / "bundle")
    parts = [f"layer {layer} {part}" for layer in (0, 1) for part in ("attention", "ffn")]
    portable = open_model(tmp_path / "bundle" / Bundle.load(tmp_path / "bundle").graph().file)
    assert list(dict.fromkeys(product.group for product in find_products(portable))) == [*parts, "head"]

    assert optimize(tmp_path / "bundle", "onnxruntime-cpu").counts == {"bias-gelu": 2}
    if layout == "padded":
        made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
        assert made.counts == {"attention": 2, "qkv": 2, "bias-gelu": 2}, "and no normalisation behind a sum"
        names = open_model(tmp_path / "bundle" / made.graph.file).graph.initializers
        assert "model.encoder.blocks.1.attn.querykeyvalue.weight" in names
        with pytest.raises(InputError, match="skip-layer-norm: a layer normalises before its sums"):
            optimize(tmp_path / "bundle", "onnxruntime-cuda", passes=["skip-layer-norm"], force=True)
    else:
        assert optimize(tmp_path / "bundle", "onnxruntime-cuda").counts == {"packed-attention": 2, "bias-gelu": 2}

    quantize(tmp_path / "bundle", "int8-dynamic", keep=["layer 1 ffn"])
    optimize(tmp_path / "bundle", "onnxruntime-cpu", precision="int8")
    assert len(pipeline("text-classification", tmp_path / "bundle", precision="int8")(TEXTS)) == len(TEXTS)


def test_a_body_gets_a_new_head(tmp_path: Path) -> None:
    folder = toy_checkpoint(tmp_path / "checkpoint", "ToyXLMModel")
    with pytest.warns(UserWarning, match=r"no weights for score\.weight, score\.bias; they are new"):
        loaded = load_checkpoint(folder, "text-classification")
    assert loaded.architecture == CLASSIFIER
    with pytest.raises(InputError, match="answers the task feature-extraction, not 'token-classification'"):
        load_checkpoint(folder, "token-classification")  # the family has no such class
    body = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(loaded.model.state_dict()["encoder." + name], value) for name, value in body.items())


def test_families_are_not_taken_for_each_other(tmp_path: Path) -> None:
    folder = toy_checkpoint(tmp_path / "checkpoint", CLASSIFIER)
    path = folder / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"model_type": "xlm"}))
    with pytest.raises(CheckpointError, match=f"names the architecture '{CLASSIFIER}'; expected one of XLMModel"):
        load_checkpoint(folder)
    path.write_text(json.dumps(values | {"model_type": "gpt2"}))
    with pytest.raises(BundleError, match="model_type 'gpt2', expected 'xlm' or 'flaubert' or 'toyxlm'"):
        read_config(folder)


def test_a_task_is_found_for_every_familys_classes() -> None:
    assert find_task(CLASSIFIER) is find_task("XLMForSequenceClassification")
    assert find_task("ToyXLMWithLMHeadModel", causal=True).name == "text-generation"
    with pytest.raises(InputError, match="Unknown model class 'OtherForSequenceClassification'"):
        find_task("OtherForSequenceClassification")


def test_prompts(tmp_path: Path) -> None:
    folder = toy_checkpoint(tmp_path / "checkpoint", LM)
    tokenizer, config = RUNTIME.read_tokenizer(folder), read_config(folder)
    assert RUNTIME.prompt_start_id(tokenizer) == tokenizer.bos_token_id
    assert families.XLM.prompt_start_id(tokenizer) == tokenizer.sep_token_id
    assert RUNTIME.prompt_mask_id(config, tokenizer) is None
    assert families.XLM.prompt_mask_id(config, tokenizer) == config.mask_token_id
    config.causal = True
    assert families.XLM.prompt_mask_id(config, tokenizer) is None
