"""Loading checkpoints of any year, and what is refused."""

from __future__ import annotations

import json
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


PROJECTION, WORDS = "pred_layer.proj.weight", "transformer.embeddings.weight"


@pytest.mark.parametrize("kept", [(PROJECTION,), (WORDS,), (PROJECTION, WORDS)])
def test_a_file_may_hold_either_of_two_tied_weights(kept: tuple[str, ...], tmp_path: Path) -> None:
    """`safetensors.torch.save_model` keeps the one whose name sorts first, `save_pretrained` the embeddings."""
    folder = make_checkpoint(tmp_path / "a", LM)
    words = load_file(folder / "model.safetensors")[WORDS]
    edit_weights(folder, lambda w: drop(WORDS)(w) | dict.fromkeys(kept, words))
    model = load_checkpoint(folder).model
    assert model.get_parameter(PROJECTION) is model.get_parameter(WORDS)
    theirs = transformers.XLMWithLMHeadModel.from_pretrained(folder)
    for name, value in theirs.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    body = load_checkpoint(folder, "feature-extraction").model
    assert torch.equal(body.get_parameter("embeddings.weight"), words)


@pytest.mark.parametrize("wrap", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.module."])
def test_names_from_parallel_and_compiled_training(wrap: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    want = hidden(folder)
    edit_weights(folder, lambda w: {wrap + name.replace("ffns.", "ffns._orig_mod."): w[name] for name in w})
    assert torch.equal(hidden(folder), want)
    assert load_checkpoint(folder).architecture == LM


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("transformer.layer_norm_emb.weight", "transformer.layer_norm_emb.gamma"),
        ("transformer.layer_norm_emb.bias", "transformer.layer_norm_emb.beta"),
        ("pred_layer.proj.bias", "module.pred_layer.proj.bias"),
        ("pred_layer.proj.bias", "_orig_mod.pred_layer.proj.bias"),
    ],
)
def test_two_names_of_one_weight(name: str, twin: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", LM)
    edit_weights(folder, lambda w: w | {twin: w[name] + 1})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    assert f"'{name}'" in str(caught.value)
    assert f"'{twin}'" in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "extra"),
    [
        ("XLMForSequenceClassification", ("loss_fct.weight", "pred_layer.proj.bias")),
        ("XLMForTokenClassification", ("module.loss_fct.pos_weight", "transformer.position_ids")),
        ("XLMModel", ("pred_layer.proj.bias", "position_ids")),
        (LM, ("criterion.weight", "qa_outputs.weight")),
    ],
)
def test_what_inference_does_not_need_is_named_and_left_out(
    architecture: str, extra: tuple[str, ...], tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "a", architecture)
    edit_weights(folder, lambda w: w | dict.fromkeys(extra, torch.ones(3, dtype=torch.int64)))
    names = "".join(f"(?=.*{name.removeprefix('module.')})" for name in extra)
    with pytest.warns(UserWarning, match=rf"{names}.*left out"):
        loaded = load_checkpoint(folder)
    theirs = getattr(transformers, architecture).from_pretrained(make_checkpoint(tmp_path / "b", architecture))
    assert all(torch.equal(loaded.model.state_dict()[name], value) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("architecture", ["XLMForSequenceClassification", "XLMModel"])
def test_a_checkpoint_that_does_not_say_its_class_may_have_what_is_left_of_pre_training(
    architecture: str, tmp_path: Path
) -> None:
    folder = make_checkpoint(tmp_path / "a", architecture)
    edit_config(folder, architectures=...)
    if architecture == "XLMForSequenceClassification":
        edit_weights(folder, lambda w: w | {"pred_layer.proj.bias": torch.ones(3)})
    assert load_checkpoint(folder).architecture == architecture


def test_the_advice_to_correct_the_class_appears_where_it_helps(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMForMultipleChoice")
    edit_config(folder, architectures=["XLMForSequenceClassification"])
    with pytest.raises(CheckpointError, match=r"those of 'XLMForMultipleChoice'\. Correct 'architectures'"):
        load_checkpoint(folder)
    edit_config(folder, architectures=["XLMForMultipleChoice"])
    assert load_checkpoint(folder).architecture == "XLMForMultipleChoice"
    folder = make_checkpoint(tmp_path / "b", "XLMForSequenceClassification")
    edit_weights(folder, lambda w: drop("sequence_summary.summary.bias")(w) | {"pred_layer.proj.bias": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"missing.*summary\.bias") as caught:  # no other class would have it
        load_checkpoint(folder)
    assert "architectures" not in str(caught.value)


def test_the_simple_question_answering_head_has_two_outputs(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMForQuestionAnsweringSimple")
    edit_config(folder, id2label={"0": "a", "1": "b", "2": "c"})
    with pytest.raises(InputError, match="num_labels is 3, but XLMForQuestionAnsweringSimple has 2 outputs"):
        load_checkpoint(folder)


def test_weights_in_half_that_want_gradients(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMModel")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(
        {name: torch.nn.Parameter(value.half()) for name, value in weights.items()}, folder / "pytorch_model.bin"
    )
    state = load_checkpoint(folder).model.state_dict()
    assert all(torch.equal(state[name], value.half().float()) for name, value in weights.items())


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
