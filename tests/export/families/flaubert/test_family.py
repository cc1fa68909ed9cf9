"""FlauBERT through everything that XLM goes through: every head, layout, precision and graph, old checkpoints and
published sizes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conftest import Exported
from tests.export.optimization.test_optimize import operators
from tests.export.optimization.test_packed_cuda import verified_in_numpy
from tests.make_checkpoint import SENTENCES, make_checkpoint
from tests.parity import mend_pre_norm, random_config
from tests.sharing import folder_name, make_once
from tests.tolerances import RUNTIME_FP32
from xlm_export import export, load_checkpoint
from xlm_export.engines import build_engine
from xlm_export.families.flaubert.family import FLAUBERT
from xlm_export.families.flaubert.modeling import FlaubertWithLMHeadModel
from xlm_export.optimization import optimize
from xlm_export.quantization import quantize
from xlm_runtime import Bundle, GenerationOptions, pipeline
from xlm_runtime.families import read_config
from xlm_runtime.flaubert_config import FlaubertConfig
from xlm_runtime.tokenization.flaubert import FlaubertTokenizer

TEXTS = [*SENTENCES["fr"], "L’ÉTÉ, à Paris…"]
PRE_NORM: dict[str, Any] = {"pre_norm": True, "layerdrop": 0.2, "n_langs": 1, "lang2id": {"fr": 0}}

# config.json of 2020, with what XLM's training left in it
PUBLISHED: dict[str, Any] = {
    "amp": 1, "architectures": ["FlaubertWithLMHeadModel"], "asm": False, "attention_dropout": 0.1, "bos_index": 0,
    "bos_token_id": 0, "bptt": 512, "causal": False, "clip_grad_norm": 5, "dropout": 0.1, "eos_index": 1, "fp16": True,
    "gelu_activation": True, "id2lang": {"0": "fr"}, "init_std": 0.02, "is_encoder": True, "lang2id": {"fr": 0},
    "lang_id": 0, "langs": ["fr"], "lgs": "fr", "mask_index": 5, "mask_token_id": 0, "max_position_embeddings": 512,
    "mlm_steps": [["fr", None]], "model_type": "flaubert", "n_langs": 1, "pad_index": 2, "pad_token_id": 2,
    "sample_alpha": 0, "share_inout_emb": True, "sinusoidal_embeddings": False, "start_n_top": 5, "end_n_top": 5,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "first",
    "summary_use_proj": True, "unk_index": 3, "use_lang_emb": True, "word_blank": 0, "word_dropout": 0,
}  # fmt: skip
# name → parameters in millions (Le et al. 2020), vocabulary, width, layers, heads, pre_norm
SIZES = {
    "flaubert_small_cased": (54, 68729, 512, 6, 8, True),
    "flaubert_base_uncased": (137, 67542, 768, 12, 12, False),
    "flaubert_base_cased": (138, 68729, 768, 12, 12, False),
    "flaubert_large_cased": (373, 68729, 1024, 24, 16, True),
}


def published(name: str) -> dict[str, Any]:
    _, words, dim, layers, heads, pre_norm = SIZES[name]
    sizes = {"n_words": words, "emb_dim": dim, "n_layers": layers, "n_heads": heads, "embed_init_std": dim**-0.5}
    normal = {"pre_norm": pre_norm, "layerdrop": 0.2 * pre_norm, "layer_norm_eps": 1e-6 if pre_norm else 1e-12}
    return PUBLISHED | sizes | normal


def checkpoint(shared_folder: Path, architecture: str, **options: Any) -> Path:
    """Made once. Tests must not change the folder."""
    folder = shared_folder / "checkpoints" / folder_name(architecture, **options)
    return make_once(folder, lambda path: make_checkpoint(path, architecture, family=FLAUBERT, **options))


def labels(head: str) -> dict[int, str]:
    return {i: f"L{i}" for i in range(2 if head == "ForQuestionAnsweringSimple" else 3)}


@pytest.mark.slow(seconds=5)
def test_answers_are_those_of_transformers(shared_folder: Path, exported: Exported, tmp_path: Path) -> None:
    folder = checkpoint(shared_folder, "FlaubertForSequenceClassification", **PRE_NORM, id2label=labels(""))
    bundle = exported(folder)
    written = Bundle.load(bundle)
    assert (written.verification["status"], written.task) == ("passed", "text-classification")
    assert set(json.loads((bundle / "moses.json").read_text())["languages"]) == {"en", "fr"}

    model: Any = transformers.FlaubertForSequenceClassification.from_pretrained(folder).eval()
    mend_pre_norm(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    pipe = pipeline("text-classification", bundle)
    assert (type(pipe.model.tokenizer).__name__, type(tokenizer).__name__) == ("FlaubertTokenizer",) * 2
    assert pipe(TEXTS, lang="fr", top_k=None) == pipe(TEXTS, top_k=None)
    for text, answer in zip(TEXTS, pipe(TEXTS, top_k=None), strict=True):
        with torch.no_grad():
            want = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits[0].softmax(-1)
        got = {item["label"]: item["score"] for item in answer}
        np.testing.assert_allclose([got[f"L{i}"] for i in range(3)], want.numpy(), atol=RUNTIME_FP32)

    shutil.copytree(bundle, tmp_path / "bundle")
    made = optimize(tmp_path / "bundle", "onnxruntime-cuda")
    assert made.counts == {"attention": 2, "qkv": 2, "skip-layer-norm": 2, "bias-gelu": 2}
    sums = operators(tmp_path / "bundle" / made.graph.file)["Add"]
    assert sums < operators(bundle / written.graph().file)["Add"] - 2, "the first sum of each layer is the operator's"


@pytest.mark.whole
@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize("head", FLAUBERT.models)
def test_every_head(head: str, layout: str, pre_norm: bool, shared_folder: Path, tmp_path: Path) -> None:
    options = PRE_NORM | {"pre_norm": pre_norm}
    folder = checkpoint(shared_folder, f"Flaubert{head}", **options, id2label=labels(head))
    bundle = export(folder, tmp_path / "bundle", layout=layout)
    assert bundle.verification["status"] == "passed"
    assert optimize(bundle.folder, "onnxruntime-cpu").counts == {"bias-gelu": 2}
    made = optimize(bundle.folder, "onnxruntime-cuda")
    attention = {"attention": 2, "qkv": 2} if layout == "padded" else {"packed-attention": 2}
    # of a layer that normalises first: the sum before the FFN, and where no mask is between, that before the next layer
    sums = 4 if not pre_norm else 2 if layout == "padded" else 3
    expected = {**attention, "skip-layer-norm": sums, "bias-gelu": 2}
    assert (made.counts, made.report.status) == (expected, "passed")
    if layout == "packed":
        verified_in_numpy(made)


@pytest.mark.whole
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_half_precision_int8_and_engines(layout: str, shared_folder: Path, tmp_path: Path) -> None:
    folder = checkpoint(shared_folder, "FlaubertForSequenceClassification", **PRE_NORM, id2label=labels(""))
    bundle = export(folder, tmp_path / "half", precision="fp16", layout=layout).folder
    assert optimize(bundle, "onnxruntime-cuda").report.status == "passed"
    if layout == "padded":
        pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx has wheels for x86-64 alone")
        _, report = build_engine(bundle, profile=["1x1:1x8:2x16"], gpu_archs=["sm89"])
        assert report.attention["recognised"] == 2
    bundle = export(folder, tmp_path / "bundle", layout=layout).folder
    want = pipeline("text-classification", bundle)(TEXTS)
    for recipe in ("int8-dynamic", "int8-static"):
        assert quantize(bundle, recipe, force=True).report["divergence"] < 1e-2
        got = pipeline("text-classification", bundle, precision="int8")(TEXTS)
        assert [item["label"] for item in got] == [item["label"] for item in want]


@pytest.mark.whole
@pytest.mark.parametrize("pre_norm", [False, True])
def test_generation_with_a_cache(pre_norm: bool, shared_folder: Path, tmp_path: Path) -> None:
    """Verified at every step against torch; on CUDA in half precision the cache stays where it is."""
    options = PRE_NORM | {"pre_norm": pre_norm, "causal": True}
    folder = checkpoint(shared_folder, "FlaubertWithLMHeadModel", **options)
    assert export(folder, tmp_path / "bundle").verification["status"] == "passed"
    made = optimize(export(folder, tmp_path / "half", precision="fp16").folder, "onnxruntime-cuda")
    assert (made.counts["static-cache"], made.report.status) == (2, "passed")

    model: Any = transformers.FlaubertWithLMHeadModel.from_pretrained(folder).eval()
    if pre_norm:
        mend_pre_norm(model)
    pipe = pipeline("text-generation", tmp_path / "bundle")
    made_here = pipe(TEXTS[0], GenerationOptions(max_new_tokens=8))["ids"]
    tokenizer = pipe.model.tokenizer
    ids = torch.tensor([[tokenizer.sep_token_id, *tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        for index in made_here:
            assert int(model(ids).logits[0, -1].argmax()) == index
            ids = torch.cat((ids, torch.tensor([[index]])), dim=1)


@pytest.mark.whole
@pytest.mark.parametrize("seed", range(100))
def test_graphs_of_random_configurations(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    head = rng.choice([*FLAUBERT.models])
    options = random_config(rng, FLAUBERT, id2label=labels(head), lang_id=0, embed_init_std=0.5).to_dict()
    for name in ("model_type", "label2id", "vocab_size", "architectures"):
        options.pop(name, None)
    options["id2label"] = labels(head)
    make_checkpoint(tmp_path / "checkpoint", f"Flaubert{head}", seed, FLAUBERT, **options)
    layout = "padded" if options["causal"] else rng.choice(["padded", "packed"])  # a packed graph keeps no cache
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle", layout=layout)
    errors = [output["relative"] for output in bundle.verification["outputs"].values()]
    assert (bundle.verification["status"], max(errors) < RUNTIME_FP32) == ("passed", True), errors


def test_published_configurations(tmp_path: Path) -> None:
    for name, (millions, *_) in SIZES.items():
        (tmp_path / "config.json").write_text(json.dumps(published(name)))
        config = read_config(tmp_path)
        assert isinstance(config, FlaubertConfig)
        theirs = transformers.FlaubertConfig(**published(name)).to_dict()
        ours = {key: value for key, value in config.to_dict().items() if key in theirs}
        assert ours.keys() >= {"pre_norm", "layerdrop", "layer_norm_eps", "vocab_size", "n_layers", "mask_token_id"}
        assert {key: theirs[key] for key in ours} == ours | {"id2lang": theirs["id2lang"]}
        with torch.device("meta"):
            parameters = set(FlaubertWithLMHeadModel(config).parameters())
        assert sum(map(torch.Tensor.numel, parameters)) // 1_000_000 in (millions - 1, millions)
    values = published("flaubert_small_cased")
    del values["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert isinstance(read_config(tmp_path), FlaubertConfig), "known by its architecture"


def test_a_checkpoint_of_2020(tmp_path: Path) -> None:
    """A pickle whose projection is there beside the embeddings, a buffer, and its original vocabulary files."""
    folder = make_checkpoint(tmp_path / "new", "FlaubertWithLMHeadModel", family=FLAUBERT, **PRE_NORM)
    model = load_checkpoint(folder).model
    old = tmp_path / "old"
    old.mkdir()
    places = torch.arange(64).unsqueeze(0)
    torch.save({**model.state_dict(), "transformer.position_ids": places}, old / "pytorch_model.bin")
    config = PUBLISHED | {
        name: getattr(model.config, name) for name in ("vocab_size", "emb_dim", "n_layers", "n_heads")
    }
    config |= {"pre_norm": True, "max_position_embeddings": 64, "layer_norm_eps": 1e-6}
    (old / "config.json").write_text(json.dumps(config))
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(folder / name, old / name)
    with pytest.warns(UserWarning, match="position_ids"):
        loaded = load_checkpoint(old)
    assert loaded.architecture == "FlaubertWithLMHeadModel"
    assert all(torch.equal(loaded.model.state_dict()[name], value) for name, value in model.state_dict().items())
    assert type(FLAUBERT.runtime.read_tokenizer(old)) is FlaubertTokenizer


@pytest.mark.whole
@pytest.mark.parametrize(("name", "n_layers"), [("flaubert_small_cased", 6), ("flaubert_base_uncased", 2),
                                                ("flaubert_large_cased", 2)])  # fmt: skip
def test_published_sizes(name: str, n_layers: int, tmp_path: Path) -> None:
    """Vocabulary and width as published; of the larger ones two layers."""
    (tmp_path / "config.json").write_text(json.dumps(published(name) | {"n_layers": n_layers}))
    options = read_config(tmp_path).to_dict()
    for key in ("model_type", "label2id", "architectures"):
        options.pop(key)
    make_checkpoint(tmp_path / "checkpoint", "FlaubertWithLMHeadModel", family=FLAUBERT, **options)
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle")
    assert bundle.verification["status"] == "passed"
    assert len(pipeline("fill-mask", bundle.folder)("Le vieux <mask> se dresse.")) == 5
