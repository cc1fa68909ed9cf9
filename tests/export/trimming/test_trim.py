"""Trimmed checkpoints beside the whole ones, in transformers and here, and what is refused."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.conftest import Checkpoints
from tests.make_checkpoint import SENTENCES, make_checkpoint
from tests.tolerances import MODEL_PARITY
from xlm_export import CheckpointError, VerificationError, export, trim
from xlm_export.cli.main import main
from xlm_export.trimming.trim import TRIM_FILE
from xlm_runtime import pipeline
from xlm_runtime.errors import InputError, XLMError
from xlm_runtime.tokenization import XLMTokenizer

LM = "XLMWithLMHeadModel"
LANGS = tuple(SENTENCES)


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of German texts, enough for a tenth of them to be held out."""
    path = tmp_path_factory.mktemp("texts") / "german.txt"
    path.write_text("\n".join(SENTENCES["de"] * 4), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trimmed(checkpoints: Checkpoints, german: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language model with the words of these texts."""
    folder = tmp_path_factory.mktemp("trimmed") / "out"
    trim(checkpoints(LM), folder, [german])
    return folder


def kept_ids(folder: Path) -> list[int]:
    ids: list[int] = json.loads((folder / TRIM_FILE).read_text())["ids"]
    return ids


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        (LM, {}),
        (LM, {"tie_word_embeddings": False, "causal": True}),
        ("XLMForQuestionAnswering", {"n_langs": 1}),
        ("XLMForMultipleChoice", {}),
    ],
)
def test_transformers_answers_as_before(
    architecture: str, options: dict[str, Any], checkpoints: Checkpoints, german: Path, tmp_path: Path
) -> None:
    whole, folder = checkpoints(architecture, **options), tmp_path / "out"
    done = trim(whole, folder, [german])
    ids = kept_ids(folder)
    assert done.ids == tuple(ids)
    assert len(ids) < 0.65 * done.words_before
    assert done.largest_difference < MODEL_PARITY
    before, now = (getattr(transformers, architecture).from_pretrained(each).eval() for each in (whole, folder))
    words, fewer = (transformers.XLMTokenizer.from_pretrained(each) for each in (whole, folder))
    for sentence in SENTENCES["de"]:
        full, trimmed = words(sentence)["input_ids"], fewer(sentence)["input_ids"]
        assert [ids[index] for index in trimmed] == full
        assert fewer.convert_ids_to_tokens(trimmed) == words.convert_ids_to_tokens(full)
        assert XLMTokenizer.from_pretrained(folder)(sentence)["input_ids"] == trimmed
        inputs = [torch.tensor([row]) for row in (full, trimmed)]
        if architecture == "XLMForMultipleChoice":
            inputs = [each[:, None] for each in inputs]
        given = {"langs": torch.ones_like(inputs[0])} if now.config.n_langs > 1 else {}
        with torch.inference_mode():
            want, got = (model(each, **given)[0] for model, each in zip((before, now), inputs, strict=True))
        want = want[..., ids] if architecture == LM else want
        torch.testing.assert_close(got, want, rtol=0, atol=MODEL_PARITY)


def test_words_of_other_texts_fall_back_on_smaller_ones(checkpoints: Checkpoints, trimmed: Path) -> None:
    ids = kept_ids(trimmed)
    full, fewer = XLMTokenizer.from_pretrained(checkpoints(LM)), XLMTokenizer.from_pretrained(trimmed)
    theirs = transformers.XLMTokenizer.from_pretrained(trimmed)
    changed = 0
    for sentence in (sentence for sentences in SENTENCES.values() for sentence in sentences):
        before, now = full(sentence)["input_ids"], fewer(sentence)["input_ids"]
        assert now == theirs(sentence)["input_ids"]
        assert fewer.unk_token_id not in now
        assert fewer.decode(now, skip_special_tokens=True) == full.decode(before, skip_special_tokens=True)
        mapped = [ids[index] for index in now]
        assert len(mapped) >= len(before)
        if set(before) <= set(ids):
            assert mapped == before
        changed += mapped != before
    assert changed > 5


def test_all_words_of_the_scripts(checkpoints: Checkpoints, german: Path, trimmed: Path, tmp_path: Path) -> None:
    whole, few = checkpoints(LM), kept_ids(trimmed)
    latin = trim(whole, tmp_path / "latin", [german], keep_scripts=True).ids
    least = trim(whole, tmp_path / "least", [german], min_count=1000).ids
    assert set(least) < set(few) < set(latin)
    words, fewer = (XLMTokenizer.from_pretrained(each) for each in (whole, tmp_path / "latin"))
    for lang, same in (("en", True), ("fr", True), ("ru", False)):
        found = [[latin[i] for i in fewer(text)["input_ids"]] == words(text)["input_ids"] for text in SENTENCES[lang]]
        assert all(found) == same


def test_only_some_languages(checkpoints: Checkpoints, german: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    trim(checkpoints(LM), folder, [f"de={german}"], languages=["de", "fr"])
    config = json.loads((folder / "config.json").read_text())
    assert config["lang2id"] == {"de": 0, "fr": 2}
    assert config["id2lang"] == {"0": "de", "2": "fr"}
    assert config["n_langs"] == 4
    assert len(load_file(folder / "model.safetensors")["transformer.lang_embeddings.weight"]) == 4
    tokenizer = XLMTokenizer.from_pretrained(folder)
    assert tokenizer.lang2id == {"de": 0, "fr": 2}
    with pytest.raises(InputError, match=r"Language 'en' is not one of this model's: de, fr\."):
        tokenizer("A town.", lang="en")


@pytest.mark.parametrize("kind", ["shards", "pickle of 2019", "both tied tables", "half precision"])
def test_files_of_any_year(kind: str, german: Path, trimmed: Path, tmp_path: Path) -> None:
    whole, folder = make_checkpoint(tmp_path / "whole", LM), tmp_path / "out"
    weights = load_file(whole / "model.safetensors")
    (whole / "model.safetensors").unlink()
    if kind == "shards":
        names = sorted(weights)
        for number, part in enumerate((names[::2], names[1::2])):
            save_file({name: weights[name] for name in part}, whole / f"model-{number}.safetensors")
        places = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
        edit(whole / "model.safetensors.index.json", weight_map=places)
    elif kind == "pickle of 2019":
        old = {"layer_norm1.0.weight": "layer_norm1.0.gamma", "layer_norm1.0.bias": "layer_norm1.0.beta"}
        named = {}
        for name, tensor in weights.items():
            end = name.removeprefix("transformer.")
            named["module." + (f"transformer.{old[end]}" if end in old else name)] = tensor
        named["module.pred_layer.proj.weight"] = named["module.transformer.embeddings.weight"]  # one memory for both
        torch.save(named, whole / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif kind == "both tied tables":
        weights["pred_layer.proj.weight"] = weights["transformer.embeddings.weight"].clone()
        save_file(weights, whole / "model.safetensors")
    else:
        save_file({name: tensor.half() for name, tensor in weights.items()}, whole / "model.safetensors")
    assert list(trim(whole, folder, [german]).ids) == kept_ids(trimmed)
    got, plain = (load_file(each / "model.safetensors") for each in (folder, trimmed))
    assert got.keys() == plain.keys()
    for name, tensor in plain.items():
        assert torch.equal(got[name], tensor.half() if kind == "half precision" else tensor), name
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode
    transformers.XLMWithLMHeadModel.from_pretrained(folder)


def test_ids_that_files_name_get_new_numbers(checkpoints: Checkpoints, german: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(checkpoints(LM), tmp_path / "whole"))
    vocab = json.loads((whole / "vocab.json").read_text())
    words = sorted((word for word in vocab if "а" <= word[0] <= "я"), key=len)[-2:]
    end, bad = vocab[words[0]], vocab[words[1]]
    edit(whole / "config.json", eos_token_id=[1, end], n_words=len(vocab))
    edit(whole / "generation_config.json", eos_token_id=end, bad_words_ids=[[bad, 20], [bad]], max_new_tokens=20)
    (whole / "vocab.json").write_text(json.dumps(vocab | {"<mask>": len(vocab)}))
    assert json.loads((whole / "config.json").read_text())["vocab_size"] == len(vocab)
    with pytest.raises(CheckpointError, match="have no embedding"):
        trim(whole, tmp_path / "out", [german])
    (whole / "vocab.json").write_text(json.dumps(vocab))
    ids = trim(whole, tmp_path / "out", [german]).ids
    now = json.loads((tmp_path / "out" / "vocab.json").read_text())
    config, generation = (json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in
                          ("config", "generation_config"))  # fmt: skip
    assert config["eos_token_id"] == [1, now[words[0]]]
    assert (config["vocab_size"], config["n_words"]) == (len(ids), len(ids))
    assert (config["pad_token_id"], config["mask_token_id"], config["unk_index"]) == (2, 5, 3)
    assert generation == {
        "eos_token_id": now[words[0]],
        "bad_words_ids": [[now[words[1]], ids.index(20)], [now[words[1]]]],
        "max_new_tokens": 20,
    }
    edit(whole / "generation_config.json", sequence_bias=[[[20], 1.0]])
    with pytest.raises(InputError, match=r"generation_config\.json has sequence_bias, whose ids are not renumbered"):
        trim(whole, tmp_path / "other", [german])


def test_added_tokens_stay(checkpoints: Checkpoints, german: Path, tmp_path: Path) -> None:
    whole = Path(shutil.copytree(checkpoints(LM, vocab_size=430), tmp_path / "whole"))
    theirs = transformers.XLMTokenizer.from_pretrained(whole)
    theirs.add_tokens(["xyzzy", "<sep>"])
    theirs.save_pretrained(whole)
    ids = trim(whole, tmp_path / "out", [german]).ids
    text = "Der xyzzy steht<sep>am Rand."
    now = transformers.XLMTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"]
    assert [ids[index] for index in now] == theirs(text)["input_ids"]
    assert XLMTokenizer.from_pretrained(tmp_path / "out")(text)["input_ids"] == now


def test_it_appears_whole_or_not_at_all(
    checkpoints: Checkpoints, german: Path, trimmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = checkpoints(LM), Path(shutil.copytree(trimmed, tmp_path / "out"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="is already there; use --force"):
        trim(whole, folder, [german])

    def fails(*given: object) -> None:
        raise VerificationError("no")

    with monkeypatch.context() as patch:
        patch.setattr(import_module("xlm_export.trimming.trim"), "compare_models", fails)
        for target in (folder, tmp_path / "new"):
            with pytest.raises(VerificationError):
                trim(whole, target, [german], force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "generation_config.json").write_text("{}")
    trim(whole, folder, [german], keep_scripts=True, force=True)
    assert sorted(path.name for path in folder.iterdir()) == sorted(before)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = Path(shutil.copytree(whole, tmp_path / "other"))
    with pytest.raises(InputError, match=r"holds no trim\.json and will not be replaced"):
        trim(whole, other, [german], force=True)
    with pytest.raises(InputError, match="is the checkpoint itself"):
        trim(folder, folder, [german], force=True)
    trim(folder, tmp_path / "again", [german])
    assert len(kept_ids(tmp_path / "again")) < len(kept_ids(folder))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"asm": True, "asm_cutoffs": [50, 200]}, InputError, "adaptive softmax"),
        ({"missing": "vocab.json"}, CheckpointError, "No tokenizer found in path"),
        ({"missing": "model.safetensors"}, CheckpointError, "No weights found"),
        ({"languages": ["xx"]}, InputError, r"Language 'xx' is not one of this checkpoint's: de, en, fr, ru\."),
        ({"languages": ["en"], "default_lang": "de"}, InputError, "has the default_lang 'de', which is not among"),
        ({"min_count": 0}, InputError, "min_count is 0; expected 1 or more"),
        ({"sentences": "\n \n"}, InputError, "hold no text"),
    ],
)
def test_what_is_refused(options: dict[str, Any], error: type[XLMError], message: str, tmp_path: Path) -> None:
    asked = {name: options.pop(name) for name in ("languages", "min_count") if name in options}
    missing, sentences = options.pop("missing", None), options.pop("sentences", "Der Turm.")
    whole = make_checkpoint(tmp_path / "whole", LM, **options)
    if missing:
        (whole / missing).unlink()
    (tmp_path / "a.txt").write_text(sentences)
    with pytest.raises(error, match=message):
        trim(whole, tmp_path / "out", [tmp_path / "a.txt"], **asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "whole"]


def test_the_command(
    checkpoints: Checkpoints, german: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["trim", str(checkpoints(LM)), str(tmp_path / "out"), "--text", f"de={german}", "--min-count", "2"]
    assert main(line) == 0
    first, held_out, verified = capsys.readouterr().out.splitlines()
    assert f"out: {len(kept_ids(tmp_path / 'out'))} of 422 words, for 12 texts; embeddings" in first
    assert held_out.startswith("held out: ")
    assert verified.startswith("verified: outputs differ from the checkpoint's by at most ")
    assert main(line) == 1
    assert "is already there; use --force" in capsys.readouterr().err


@pytest.mark.whole
def test_a_bundle_of_it(checkpoints: Checkpoints, trimmed: Path, tmp_path: Path) -> None:
    ids, scores = kept_ids(trimmed), []
    for checkpoint, name in ((checkpoints(LM), "whole"), (trimmed, "fewer")):
        export(checkpoint, tmp_path / name)
        answers = pipeline("fill-mask", tmp_path / name)("Der alte <mask> steht am Rand.", top_k=200)
        scores.append({each["token"]: each["score"] for each in answers})
    ratios = [score / scores[0][ids[index]] for index, score in scores[1].items() if ids[index] in scores[0]]
    assert len(ratios) > 50
    assert max(ratios) / min(ratios) == pytest.approx(1, rel=1e-3)
    assert min(ratios) > 1, "fewer words share the probability"
