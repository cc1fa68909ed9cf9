"""What an export does about languages, and what texts then get, against transformers with and without `langs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers

from tests.conftest import Bundles, Checkpoints, Exported
from tests.export.conftest import Traced
from tests.tolerances import RUNTIME_FP32
from xlm_export import export
from xlm_export.cli.main import main
from xlm_export.languages import compare_languages
from xlm_runtime import Bundle, InputError, pipeline
from xlm_runtime.model.languages import LanguageNumbers

TEXTS = ["The old lighthouse stands at the edge of the town.", "Der alte Turm.", "Маяк стоит на краю."]


def logits(checkpoint: Path, texts: list[str], langs: list[int | None]) -> np.ndarray:
    """transformers' for each text alone; without a language as its pipelines call it."""
    model = transformers.XLMForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = transformers.XLMTokenizer.from_pretrained(checkpoint)
    rows = []
    for text, lang in zip(texts, langs, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            rows.append(model(ids, **({} if lang is None else {"langs": torch.full_like(ids, lang)})).logits[0])
    return torch.stack(rows).numpy()


def answers(bundle: Path, texts: list[str], provider: str = "cpu", **options: Any) -> np.ndarray:
    """The scores before softmax, by label."""
    pipe = pipeline("text-classification", bundle, provider)
    found = pipe(texts, top_k=None, function_to_apply="none", **options)
    labels = list(pipe.model.config.id2label.values())
    return np.array([[{row["label"]: row["score"] for row in rows}[label] for label in labels] for rows in found])


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("layout", ["", "-packed"])
def test_without_lang_a_text_gets_what_transformers_gives_it(bundles: Bundles, layout: str, provider: str) -> None:
    folder = bundles(f"text-classification{layout}")
    checkpoint = bundles("text-classification").parent / "checkpoints" / "text-classification"
    expected = logits(checkpoint, TEXTS, [None] * 3)
    np.testing.assert_allclose(answers(folder, TEXTS, provider), expected, atol=RUNTIME_FP32)
    assert np.abs(expected - logits(checkpoint, TEXTS, [1] * 3)).max() > 0.1, "lang_id would answer otherwise"


def test_default_lang(traced: Traced, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = traced("text-classification")
    export(checkpoint, tmp_path / "bundle", default_lang="ru", verify=False)
    expected = logits(checkpoint, TEXTS, [3] * 3)
    np.testing.assert_allclose(answers(tmp_path / "bundle", TEXTS), expected, atol=RUNTIME_FP32)
    assert json.loads((tmp_path / "bundle" / "config.json").read_text())["default_lang"] == "ru"
    with pytest.raises(InputError, match="Unknown language 'xx'; expected one of: de, en, fr, ru"):
        export(checkpoint, tmp_path / "other", default_lang="xx", verify=False)
    assert main(["export", str(checkpoint), str(tmp_path / "other"), "--langs", "none", "--default-lang", "en"]) == 1
    assert "--langs none fixes the language of every text" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_graph_that_reads_no_langs(checkpoints: Checkpoints, exported: Exported) -> None:
    checkpoint = checkpoints("XLMForSequenceClassification")
    folder = exported(checkpoint, langs="ru")  # verified, against the model that is changed
    graph = onnx.load(folder / "model.onnx").graph
    assert [item.name for item in graph.input] == ["input_ids", "attention_mask"]
    expected = logits(checkpoint, TEXTS, [3] * 3)
    np.testing.assert_allclose(answers(folder, TEXTS), expected, atol=RUNTIME_FP32)
    known = answers(folder, TEXTS, lang="en")  # read by a language's rules, with the same embedding
    np.testing.assert_allclose(known, expected, atol=RUNTIME_FP32)
    bundle = Bundle.load(folder)
    assert bundle.conventions == {"uses_langs": False, "langs": "ru"}
    assert bundle.config.lang2id is not None


def test_a_language_for_a_model_that_has_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMModel", n_langs=1)
    for options in ({"langs": "en"}, {"default_lang": "en"}):
        with pytest.raises(InputError, match=r"'en' was given, but the checkpoint .* has no language embeddings"):
            export(checkpoint, tmp_path / "bundle", **options)


def test_bundles_of_earlier_versions_keep_lang_id(traced: Traced, tmp_path: Path) -> None:
    checkpoint = traced("text-classification")
    export(checkpoint, tmp_path / "bundle", verify=False)
    file = tmp_path / "bundle" / "bundle.json"
    values = json.loads(file.read_text())
    del values["conventions"]["langs"]
    file.write_text(json.dumps(values))
    np.testing.assert_allclose(
        answers(tmp_path / "bundle", TEXTS), logits(checkpoint, TEXTS, [1] * 3), atol=RUNTIME_FP32
    )


def test_generation_keeps_lang_id(bundles: Bundles) -> None:
    model = pipeline("text-generation", bundles("text-generation")).model
    assert isinstance(model.languages, LanguageNumbers)
    assert (model.languages.default, model.languages.prompt) == (-1, model.config.lang_id) == (-1, 1)


def test_full_logits(bundles: Bundles, exported: Exported, checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = bundles("fill-mask").parent / "checkpoints" / "fill-mask"
    folder = exported(checkpoint, langs="none", full_logits=True)
    graph = onnx.load(folder / "model.onnx").graph
    assert [item.name for item in graph.input] == ["input_ids", "attention_mask"]
    assert [dim.dim_param for dim in graph.output[0].type.tensor_type.shape.dim][:2] == ["batch", "sequence"]
    texts = ["The <special1> stands at the <special1>.", "<special1> town"]
    ours, kept = (pipeline("fill-mask", each)(texts, top_k=3) for each in (folder, bundles("fill-mask")))
    for one, other in zip([*ours[0], ours[1]], [*kept[0], kept[1]], strict=True):
        assert [row["token"] for row in one] == [row["token"] for row in other]
        np.testing.assert_allclose([row["score"] for row in one], [row["score"] for row in other], atol=RUNTIME_FP32)
    with pytest.raises(InputError, match="Leave out --full-logits"):
        export(checkpoint, tmp_path / "bundle", full_logits=True, layout="packed")
    with pytest.raises(InputError, match="Leave out --full-logits"):
        export(checkpoints("XLMModel"), tmp_path / "bundle", full_logits=True)


@pytest.fixture
def labelled(bundles: Bundles, tmp_path: Path) -> Path:
    """Texts with their languages, and as labels what the model says without any."""
    pipe = pipeline("text-classification", bundles("text-classification"))
    file = tmp_path / "data.jsonl"
    named = list(zip(TEXTS, ("en", "de", "ru"), strict=True))
    rows = [{"text": f"{text} {i}", "lang": lang} for i in range(12) for text, lang in named]
    labels = pipe([row["text"] for row in rows])
    lines = [json.dumps({**row, "label": answer["label"]}) for row, answer in zip(rows, labels, strict=True)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_labelled_data_show_what_a_checkpoint_was_trained_with(
    bundles: Bundles, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = bundles("text-classification")
    metric, scores = compare_languages(folder, labelled)
    assert metric == "accuracy"
    assert (scores[0].langs, scores[0].value, scores[0].remedy) == ("none", 1.0, "nothing, it is the default")
    assert {each.langs for each in scores} == {"none", "own", "de", "en", "fr", "ru"}
    assert all(each.value < 1 for each in scores[1:])
    assert main(["langs", str(folder), "--data", str(labelled)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["none", "1.0000"]
    assert lines[-1] == "Best: langs none."
    assert main(["langs", str(folder), "--data", str(labelled), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["langs"][0]["langs"] == "none"


def test_data_whose_best_way_is_one_language(bundles: Bundles, labelled: Path) -> None:
    folder = bundles("text-classification")
    pipe = pipeline("text-classification", folder)
    rows = [json.loads(line) for line in labelled.read_text(encoding="utf-8").splitlines()]
    checkpoint = folder.parent / "checkpoints" / "text-classification"
    best = logits(checkpoint, [row["text"] for row in rows], [0] * len(rows)).argmax(axis=-1)
    lines = [
        json.dumps({"text": row["text"], "label": pipe.model.config.id2label[int(i)]})
        for row, i in zip(rows, best, strict=True)
    ]
    labelled.write_text("\n".join(lines), encoding="utf-8")
    _, scores = compare_languages(folder, labelled)
    assert (scores[0].langs, scores[0].value) == (pipe.model.config.id2lang[0], 1.0)
    assert scores[0].remedy.endswith(f"--default-lang {scores[0].langs}")
    assert "own" not in {each.langs for each in scores}


def test_graphs_that_read_no_langs_have_nothing_to_compare(
    checkpoints: Checkpoints, exported: Exported, labelled: Path
) -> None:
    folder = exported(checkpoints("XLMForSequenceClassification"), langs="ru")
    with pytest.raises(InputError, match="read no `langs`"):
        compare_languages(folder, labelled)
