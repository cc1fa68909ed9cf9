"""Checkpoints as XLM's original code writes them; the oracle is transformers' model by the published mapping."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.export.families.xlm.test_fastbpe import original, write_original
from tests.make_checkpoint import LANGUAGES, SPECIALS, learn_vocabulary
from tests.tolerances import MODEL_PARITY
from xlm_export import CheckpointError, export, verify
from xlm_export.checkpoint import load_checkpoint
from xlm_export.checkpoint.opening import open_source
from xlm_export.checkpoint.tokenizer_files import checkpoint_tokenizer
from xlm_runtime import pipeline

END = "</w>"
OPTIONS: dict[str, Any] = {
    "emb_dim": 32, "n_layers": 2, "n_heads": 4, "dropout": 0.1, "attention_dropout": 0.1, "gelu_activation": True,
    "sinusoidal_embeddings": False, "asm": False, "asm_cutoffs": "60,120", "asm_div_value": 4, "share_inout_emb": True,
    "use_lang_emb": True, "use_memory": False, "encoder_only": True, "mlm_steps": [("de", None)], "clm_steps": [],
}  # fmt: skip
"""What XLM's trainer keeps of its command line."""


def words() -> dict[str, int]:
    """The tiny checkpoints' vocabulary as `Dictionary` has it."""
    lines = original(learn_vocabulary()[0]).splitlines()
    return {word: i for i, word in enumerate([*SPECIALS, *(line.split()[0] for line in lines)])}


def oracle(**options: Any) -> transformers.XLMWithLMHeadModel:
    """transformers' model with the weights of the file that `write` makes of the same options."""
    config = OPTIONS | {"n_langs": 4} | options
    config["asm_cutoffs"] = [60, 120]
    names = ("emb_dim", "n_layers", "n_heads", "gelu_activation", "sinusoidal_embeddings", "asm", "asm_cutoffs",
             "asm_div_value", "n_langs", "use_lang_emb", "causal")  # fmt: skip
    kept = {name: config[name] for name in names if name in config}
    torch.manual_seed(0)
    tied = config["share_inout_emb"] and not config["asm"]
    model = transformers.XLMWithLMHeadModel(
        transformers.XLMConfig(vocab_size=len(words()), tie_word_embeddings=tied, init_std=0.2, **kept)
    )
    return model.eval()


def write(
    path: Path,
    model: transformers.XLMWithLMHeadModel,
    changed: Mapping[str, Any] | None = None,
    prefix: str = "",
    zipped: bool = True,
) -> Path:
    """The file that XLM's trainer would have written of a model; `changed` goes into its parts."""
    state = {prefix + name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()
             if "position_ids" not in name}  # fmt: skip
    langs = model.config.n_langs
    lang2id = {lang: i for i, lang in enumerate(LANGUAGES[:langs])}
    params = OPTIONS | {"n_langs": langs, "lang2id": lang2id, "id2lang": {i: lang for lang, i in lang2id.items()}}
    params |= {"n_words": len(words()), "mask_scores": np.ones(3), "pred_probs": torch.ones(3), "size": np.int64(5)}
    file: dict[str, Any] = {
        "epoch": 7, "best_metrics": {"valid_ppl": np.float64(9.5)}, "model": state, "params": params,
        "model_optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        "dico_word2id": words(), "dico_id2word": {i: word for word, i in words().items()}, "dico_counts": {},
    }  # fmt: skip
    for name, value in (changed or {}).items():
        merges = isinstance(value, dict) and name in ("model", "params")
        file[name] = file[name] | value if merges else value
    torch.save(file, path, _use_new_zipfile_serialization=zipped)
    return path


def batch(langs: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(14, len(words()), (3, 9), generator=generator)
    mask = torch.arange(9) < torch.tensor([9, 6, 2])[:, None]
    given = {"input_ids": ids.masked_fill(~mask, 2), "attention_mask": mask.long()}
    return given | ({"langs": torch.randint(0, langs, (3, 9), generator=generator)} if langs > 1 else {})


@pytest.mark.parametrize(
    ("prefix", "zipped", "options"),
    [
        ("", True, {}),
        ("module.", False, {"n_langs": 1}),
        ("", True, {"use_lang_emb": False, "sinusoidal_embeddings": True, "gelu_activation": False}),
        ("module.", True, {"asm": True, "share_inout_emb": False}),
        ("", False, {"share_inout_emb": False}),
        ("", True, {"causal": True}),
    ],
)
def test_logits_are_those_of_the_published_mapping(
    prefix: str, zipped: bool, options: dict[str, Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model = oracle(**options)
    steps = {"mlm_steps": [], "clm_steps": [("de", None)]} if options.get("causal") else {}
    path = write(tmp_path / "best.pth", model, {"params": options | steps}, prefix, zipped)
    loaded = load_checkpoint(path)
    given = batch(model.config.n_langs if loaded.config.uses_langs else 1)
    with torch.inference_mode():
        hidden, proj = model.transformer(**given).last_hidden_state, model.pred_layer.proj
        # transformers takes adaptive softmax of (tokens, emb_dim) alone
        expected = proj.log_prob(hidden.flatten(0, 1)).unflatten(0, (3, 9)) if loaded.config.asm else proj(hidden)
        found = loaded.model(**given)
    torch.testing.assert_close(found.logits, expected, atol=MODEL_PARITY, rtol=MODEL_PARITY)
    assert any("causal" in str(warning.message) for warning in recwarn) == bool(options.get("causal"))


def test_a_file_becomes_a_bundle(tmp_path: Path) -> None:
    """Without a tokenizer of Hugging Face's: the words are in the file, and the codes beside it."""
    folder = write_original(tmp_path / "bpe")
    path = write(tmp_path / "best-valid_mlm_ppl.pth", oracle())
    bundle = export(path, tmp_path / "bundle", codes=folder / "codes", vocab=folder / "vocab", default_lang="de")
    assert (bundle.task, bundle.verification["status"]) == ("fill-mask", "passed")
    assert bundle.config.lang2id == {lang: i for i, lang in enumerate(LANGUAGES[:4])}
    assert bundle.source["checkpoint"] == str(path)
    assert list(bundle.source["sha256"]) == [path.name]
    vocab = json.loads((bundle.folder / "vocab.json").read_text("utf-8"))
    assert vocab == learn_vocabulary()[0]
    answers: Any = pipeline("fill-mask", bundle.folder)("Der <special1> steht am Rand.", top_k=2)
    assert len(answers) == 2
    assert not verify(bundle.folder, path).failures


@pytest.mark.parametrize("cased", [False, True])
def test_words_with_capital_letters_keep_them(cased: bool, tmp_path: Path) -> None:
    folder, found = write_original(tmp_path / "bpe"), words()
    if cased:
        found = {word if word in SPECIALS or word.upper() in found else word.upper(): i for word, i in found.items()}
    path = write(tmp_path / "a.pth", oracle(), {"dico_word2id": found})
    with open_source(path, codes=folder / "codes") as source:
        assert checkpoint_tokenizer(source).do_lowercase_and_remove_accent is not cased


def test_codes_are_asked_for_and_the_vocabulary_compared(tmp_path: Path) -> None:
    folder = write_original(tmp_path / "bpe")
    path = write(tmp_path / "a.pth", oracle())
    with pytest.raises(CheckpointError, match=r"not fastBPE's codes, .*--codes"):
        export(path, tmp_path / "bundle")
    longer = folder / "vocab_all"
    longer.write_text((folder / "vocab").read_text("utf-8") + "zebra 1\n", "utf-8")
    with open_source(path, codes=folder / "codes", vocab=longer) as source:
        assert checkpoint_tokenizer(source).get_vocab() == learn_vocabulary()[0]
    lines = (folder / "vocab").read_text("utf-8").splitlines(keepends=True)
    (folder / "vocab").write_text("".join([*lines[1::-1], *lines[2:]]), "utf-8")
    with pytest.raises(CheckpointError, match=r"word 14 is '.*' in the checkpoint and '.*' in the vocabulary"):
        export(path, tmp_path / "other", codes=folder / "codes", vocab=folder / "vocab")
    with pytest.raises(CheckpointError, match=r"is no .pth file"):
        export(folder, tmp_path / "other", codes=folder / "codes")
    with pytest.raises(CheckpointError, match=r"File '.*absent' cannot be read"):
        export(path, tmp_path / "other", codes=folder / "absent")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"params": 3}, "no options under 'params'"),
        ({"params": {"use_memory": True}}, "product-key memories"),
        ({"model": {"memories.1_in.keys": torch.ones(2)}}, "product-key memories"),
        ({"encoder": {}}, "an encoder and a decoder"),
        ({"dico_word2id": None}, "no words"),
        ({"dico_word2id": {"<s>": 0, "a": 1}}, "not numbered as XLM numbers them"),
        ({"dico_word2id": words() | {"zebra": len(words())}}, "embeddings of"),
        ({"params": {"emb_dim": "wide"}}, "emb_dim"),
        ({"model": {"embeddings.weight": torch.ones(3)}}, "no 'embeddings.weight'"),
        ({"model": {"attentions.0.q_lin.weight": torch.ones(3)}}, "has shape"),
        ({"model": {"layer_norm15.0.weight": torch.ones(32)}}, "Unexpected tensors"),
    ],
)
def test_what_cannot_be_read(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", oracle(), changed)
    with pytest.raises(Exception, match=message) as error:
        load_checkpoint(path)
    assert type(error.value).__module__.startswith("xlm_")
    assert str(tmp_path) in str(error.value) or "emb_dim" in message


def test_a_file_with_a_dictionary_of_the_original_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("src.data.dictionary")
    kind = type("Dictionary", (), {"__module__": module.__name__})
    module.Dictionary = kind  # type: ignore[attr-defined]
    with monkeypatch.context() as there:
        for name in ("src", "src.data", module.__name__):
            there.setitem(sys.modules, name, module)
        path = write(tmp_path / "a.pth", oracle(), {"dico": kind()})
    with pytest.raises(CheckpointError, match=r"dico_word2id=d.word2id, .* and give plain.pth"):
        load_checkpoint(path)


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="no checkpoint of XLM's original code"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"absent.pth' not found"):
        load_checkpoint(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="leave out the revision"):
        load_checkpoint(tmp_path / "a.pth", revision="main")
    (tmp_path / "b.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"or a \.pth file"):
        load_checkpoint(tmp_path / "b.bin")
