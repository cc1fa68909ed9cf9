"""Loading checkpoints of any year, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.make_checkpoint import make_checkpoint
from tests.paths import SHARED
from xlm_export import CheckpointError, load_checkpoint
from xlm_export.checkpoint.checkpoint import find_folder
from xlm_export.families.xlm.family import XLM
from xlm_runtime.errors import BundleError, InputError

LM = "XLMWithLMHeadModel"
IDS = torch.tensor([[0, 20, 21, 22, 1], [0, 23, 1, 2, 2]])
LANGS = torch.ones_like(IDS)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    values.update(changes)
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not ...}))


def edit_weights(folder: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: value.clone() for name, value in edit(load_file(path)).items()}, path)


def hidden(folder: Path) -> torch.Tensor:
    loaded = load_checkpoint(folder, "feature-extraction")
    return loaded.model(IDS, attention_mask=IDS != 2, langs=LANGS).last_hidden_state.detach()


@pytest.mark.parametrize("architecture", XLM.architectures)
def test_what_transformers_saves_loads(architecture: str, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "ours", architecture)
    theirs = getattr(transformers, architecture).from_pretrained(source)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert list((tmp_path / "theirs").glob("*.index.json")), "the checkpoint is sharded"
    loaded = load_checkpoint(tmp_path / "theirs")
    assert loaded.architecture == architecture
    assert not loaded.new_weights
    for name, value in theirs.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("half", [True, False])
def test_a_folder_of_2019(zipped: bool, half: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "old", LM)
    want = hidden(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weights = {name.replace("LayerNorm.weight", "LayerNorm.gamma"): value for name, value in weights.items()}
    weights["pred_layer.proj.weight"] = weights["transformer.embeddings.weight"]
    weights["transformer.position_ids"] = torch.arange(64)[None]
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    config = json.loads((folder / "config.json").read_text())
    for new, old in (("vocab_size", "n_words"), ("bos_token_id", "bos_index"), ("pad_token_id", "pad_index")):
        config[old] = config.pop(new)
    config.pop("architectures")
    (folder / "config.json").write_text(json.dumps(config | {"max_vocab": -1, "same_enc_dec": True}))
    loaded = load_checkpoint(folder)
    assert loaded.architecture == LM
    assert (hidden(folder) - want).abs().max() < (0.05 if half else 1e-6)


def test_tied_projection_may_be_absent(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    edit_weights(folder, lambda w: {k: v for k, v in w.items() if k != "pred_layer.proj.weight"})
    model = load_checkpoint(folder).model
    assert model.get_parameter("pred_layer.proj.weight") is model.get_parameter("transformer.embeddings.weight")


def test_base_into_head_names_the_new_weights(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMModel")
    with pytest.warns(UserWarning, match=r"no weights for classifier\.weight, classifier\.bias; they are new"):
        loaded = load_checkpoint(folder, "token-classification")
    assert loaded.new_weights == ("classifier.weight", "classifier.bias")
    body = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(loaded.model.state_dict()["transformer." + name], value) for name, value in body.items())


def test_head_into_base(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMForQuestionAnswering")
    loaded = load_checkpoint(folder, "feature-extraction")
    assert loaded.architecture == "XLMModel"
    assert not loaded.new_weights


@pytest.mark.parametrize("architecture", ["XLMForQuestionAnswering", "XLMForQuestionAnsweringSimple"])
def test_the_question_answering_heads_are_never_taken_for_each_other(architecture: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", architecture)
    assert load_checkpoint(folder, "question-answering").architecture == architecture
    other = {"XLMForQuestionAnswering", "XLMForQuestionAnsweringSimple"} - {architecture}
    edit_config(folder, architectures=list(other))
    with pytest.raises(CheckpointError, match="but the weights are those of"):
        load_checkpoint(folder)
    edit_config(folder, architectures=...)
    assert load_checkpoint(folder).architecture == architecture


@pytest.mark.parametrize("sinusoidal", [True, False])
def test_position_table(sinusoidal: bool, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMModel", sinusoidal_embeddings=sinusoidal)
    edit_weights(folder, lambda w: {k: v for k, v in w.items() if k != "position_embeddings.weight"})
    if sinusoidal:
        assert load_checkpoint(folder).model.get_parameter("position_embeddings.weight")[1, 0] > 0.8
    else:
        with pytest.raises(CheckpointError, match=r"missing.*position_embeddings\.weight"):
            load_checkpoint(folder)


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("transformer.ffns.1.lin2.bias"), r"missing.*transformer\.ffns\.1\.lin2\.bias"),
        (drop("pred_layer.proj.bias"), r"missing.*pred_layer\.proj\.bias"),
        (lambda w: w | {"transformer.extra": torch.ones(2)}, r"Unexpected tensors.*transformer\.extra"),
        (
            lambda w: w | {"transformer.layer_norm_emb.weight": torch.ones(7)},
            r"layer_norm_emb\.weight'.*shape \(7,\).*asks for \(32,\)",
        ),
        (
            lambda w: w | {"pred_layer.proj.weight": w["transformer.embeddings.weight"] + 1},
            "tie_word_embeddings is true",
        ),
    ],
)
def test_tensors_that_do_not_fit(edit: Any, message: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    edit_config(folder, architectures=[LM])
    edit_weights(folder, edit)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_truncated_files(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"'model\.safetensors'.*truncated"):
        load_checkpoint(folder)
    path.unlink()
    torch.save({"a": torch.ones(1000)}, folder / "pytorch_model.bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    for kept in (data[: len(data) // 2], b""):
        (folder / "pytorch_model.bin").write_bytes(kept)
        with pytest.raises(CheckpointError, match=r"'pytorch_model\.bin'.*truncated"):
            load_checkpoint(folder)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    (folder / "model.safetensors").unlink()
    torch.save({"a": shutil.rmtree}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as PyTorch weights"):
        load_checkpoint(folder)


def test_missing_shard(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"'model-00001-of-00002\.safetensors', named in"):
        load_checkpoint(folder)


def test_other_folders_and_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Folder '/nowhere/at/all' not found"):
        find_folder("/nowhere/at/all")
    with pytest.raises(CheckpointError, match=r"'FacebookAI/xlm-mlm-en-2048' is no folder.*give the folder"):
        find_folder("FacebookAI/xlm-mlm-en-2048", offline=True)
    with pytest.raises(BundleError, match=r"'config\.json' not found"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="No weights found"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        find_folder(str(tmp_path / "config.json"))


def test_other_models_and_tasks_are_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMForTokenClassification")
    with pytest.raises(InputError, match="answers the task token-classification, not 'multiple-choice'"):
        load_checkpoint(folder, "multiple-choice")
    with pytest.raises(InputError, match="Unknown task 'translation'"):
        load_checkpoint(folder, "translation")
    edit_config(folder, architectures=["XLMForEverything"])
    with pytest.raises(CheckpointError, match="XLMForEverything"):
        load_checkpoint(folder)
    edit_config(folder, model_type="xlm-roberta")
    with pytest.raises(BundleError, match="XLM-RoBERTa is another architecture"):
        load_checkpoint(folder)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not there")
def test_a_real_saved_models_tensor_names() -> None:
    header = json.loads((SHARED / "xlm-clm-ende-1024" / "safetensors_header.mlm-ende.json").read_text())
    header.pop("__metadata__")
    from xlm_export.families.xlm.modeling import XLMConfig, XLMWithLMHeadModel

    config = XLMConfig.from_pretrained(SHARED / "xlm-clm-ende-1024")
    with torch.device("meta"):
        state = XLMWithLMHeadModel(config).state_dict()
    state.pop("pred_layer.proj.weight")
    assert {name: list(value.shape) for name, value in state.items()} == {
        name: value["shape"] for name, value in header.items()
    }
