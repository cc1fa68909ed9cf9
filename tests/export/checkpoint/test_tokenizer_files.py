"""A checkpoint's tokenizer: where it comes from, and whether the model has an embedding for all that it gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from tests.make_checkpoint import make_checkpoint
from xlm_export import CheckpointError, export, exporting
from xlm_export.checkpoint.source import find_source
from xlm_export.checkpoint.tokenizer_files import checkpoint_tokenizer

FILES = ("vocab.json", "merges.txt", "tokenizer_config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint", "XLMModel")


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.fixture
def no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals come before the weights are read, let alone traced."""

    def fail(*arguments: Any) -> None:
        raise AssertionError("the weights were read")

    monkeypatch.setattr(exporting, "load_source", fail)


@pytest.mark.usefixtures("no_trace")
def test_a_token_without_an_embedding(folder: Path, tmp_path: Path) -> None:
    """As `tokenizer.add_tokens` and `save_pretrained` leave it where nobody resized the model's embeddings."""
    tokenizer = transformers.XLMTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    tokenizer.add_tokens(["covid"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=rf"go up to {size} \('covid'\), but vocab_size is {size}.*resize_token"):
        export(folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("no_trace")
def test_a_vocabulary_that_is_larger_than_the_model(folder: Path, tmp_path: Path) -> None:
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    edit(folder / "config.json", vocab_size=size - 3)
    with pytest.raises(CheckpointError, match=rf"go up to {size - 1} .* vocab_size is {size - 3}: 3 of its {size} tok"):
        export(folder, tmp_path / "bundle")


@pytest.mark.usefixtures("no_trace")
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("number", [4, 99])
def test_a_language_without_an_embedding(folder: Path, file: str, number: int, tmp_path: Path) -> None:
    names = {"de": 0, "en": 1, "fr": 2, "ru": number}
    edit(folder / file, lang2id=names, id2lang={str(value): key for key, value in names.items()})
    with pytest.raises(CheckpointError, match=rf"'ru' has the number {number}, but n_langs is 4"):
        export(folder, tmp_path / "bundle")


def test_languages_do_not_matter_without_embeddings(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "a", "XLMModel", use_lang_emb=False)
    edit(folder / "config.json", lang2id={"de": 50}, id2lang={"50": "de"}, lang_id=50)
    assert checkpoint_tokenizer(find_source(folder)).lang2id is not None


def test_a_tokenizer_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    expected = checkpoint_tokenizer(find_source(folder)).get_vocab()
    other = tmp_path / "tokenizer"
    other.mkdir()
    for name in FILES:
        shutil.move(folder / name, other / name)
    with pytest.raises(CheckpointError, match=r"No tokenizer found in path .*--tokenizer"):
        export(folder, tmp_path / "bundle")
    assert checkpoint_tokenizer(find_source(folder), other).get_vocab() == expected


def test_a_tokenizer_from_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append((repo_id, options["revision"], options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    checkpoint_tokenizer(find_source(folder), "org/name@v2")
    ((repo_id, revision, patterns),) = calls
    assert (repo_id, revision) == ("org/name", "v2")
    assert not any("safetensors" in pattern for pattern in patterns)
