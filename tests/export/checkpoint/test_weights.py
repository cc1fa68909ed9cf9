"""Weight files: what is damaged, foreign or no weights at all is refused in our words."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.make_checkpoint import make_checkpoint
from xlm_export import CheckpointError, load_checkpoint

LM = "XLMWithLMHeadModel"
BIN = "pytorch_model.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint", LM)


@pytest.fixture
def pickled(folder: Path) -> Path:
    """The weights in a zipped pickle."""
    torch.save(load_file(folder / "model.safetensors"), folder / BIN)
    (folder / "model.safetensors").unlink()
    return folder / BIN


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_truncated_files(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"'model\.safetensors'.*truncated"):
        load_checkpoint(folder)
    path.unlink()
    torch.save({"a": torch.ones(1000)}, folder / BIN)
    data = (folder / BIN).read_bytes()
    for kept in (data[: len(data) // 2], b""):
        (folder / BIN).write_bytes(kept)
        with pytest.raises(CheckpointError, match=r"'pytorch_model\.bin'.*truncated"):
            load_checkpoint(folder)


def test_a_flipped_bit_in_a_zip(pickled: Path) -> None:
    """torch reads it without a word."""
    with zipfile.ZipFile(pickled) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    data = bytearray(pickled.read_bytes())
    data[largest.header_offset + largest.file_size // 2] ^= 16
    pickled.write_bytes(data)
    assert torch.load(pickled, weights_only=True)
    with pytest.raises(CheckpointError, match=r"'pytorch_model\.bin' in path .* is damaged.*CRC"):
        load_checkpoint(pickled.parent)


def test_an_archive_that_unpacks_to_more_than_it_holds(pickled: Path) -> None:
    with zipfile.ZipFile(pickled, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(CheckpointError, match=r"is damaged \(its parts are larger than the file"):
        load_checkpoint(pickled.parent)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(pickled: Path, zipped: bool, tmp_path: Path) -> None:
    torch.save(Runs(tmp_path / "ran"), pickled, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"holds code \('(posix|nt)\.mkdir'\).*nothing of it was run") as caught:
        load_checkpoint(pickled.parent)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_whole_module(pickled: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), pickled)
    with pytest.raises(CheckpointError, match=r"holds code \('torch\.nn\.modules\.linear\.Linear'\).*state_dict"):
        load_checkpoint(pickled.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "holds no dictionary of tensors, but a list"),
        ({"state_dict": {"a": torch.ones(2)}}, "but one that has a dict under 'state_dict'"),
        ({1: torch.ones(2)}, "but a dictionary whose key 1 is no string"),
        (5, "but a int"),
    ],
)
def test_foreign_content(pickled: Path, content: Any, message: str) -> None:
    torch.save(content, pickled)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(pickled.parent)


@pytest.mark.parametrize("name", ["model.safetensors", BIN])
def test_a_git_lfs_pointer(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234\n")
    with pytest.raises(CheckpointError, match=rf"'{name}' .* is a Git LFS pointer.*git lfs pull"):
        load_checkpoint(folder)


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_numbers_that_are_no_weights(folder: Path, kind: torch.dtype) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.layer_norm_emb.weight"] = weights["transformer.layer_norm_emb.weight"].to(kind)
    save_file(weights, folder / "model.safetensors")
    name = str(kind).removeprefix("torch.")
    with pytest.raises(CheckpointError, match=rf"'transformer\.layer_norm_emb\.weight'.* holds {name}; expected float"):
        load_checkpoint(folder)


def test_sparse_weights(pickled: Path) -> None:
    weights = torch.load(pickled, weights_only=True)
    torch.save(
        weights | {"transformer.embeddings.weight": weights["transformer.embeddings.weight"].to_sparse()}, pickled
    )
    with pytest.raises(CheckpointError, match="holds sparse numbers; expected floating-point numbers, dense"):
        load_checkpoint(pickled.parent)


@pytest.fixture
def shards(folder: Path) -> Callable[[Any], Path]:
    """Writes the weights in two shards with the index that is given, or one that an edit of the right one makes."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: weights[name] for name in names if places[name] == file}, folder / file)

    def write(index: Any) -> Path:
        values = index(places) if callable(index) else index
        (folder / "model.safetensors.index.json").write_text(json.dumps(values))
        return folder

    return write


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("../config.json", r"names '\.\./config\.json' as the file of 'x'; expected the name of"),
        ("/etc/passwd", "expected the name of a file in the same folder"),
        (3, "names 3 as the file of 'x'"),
        (None, "names None as the file of 'x'"),
        (["a"], "names .'a'. as the file of 'x'"),
        ("a\0b", "expected the name of"),
        ("a" * 300, "expected the name of"),
        ("../a/../b.safetensors", "expected the name of"),
        ("../../b.safetensors", "expected the name of"),
        ("../a/pytorch_model.bin", "expected the name of"),
        ("", "names '' as the file of 'x'"),
        ("..", r"'\.\.', named in 'model\.safetensors\.index\.json', not found"),
        ("model-00009-of-00002.safetensors", r"'model-00009-of-00002\.safetensors', named in .*, not found"),
    ],
)
def test_places_of_shards(shards: Callable[[Any], Path], place: Any, message: str) -> None:
    folder = shards(lambda places: {"weight_map": {"x": place, **places}})
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("index", [[], {}, 5, {"weight_map": []}, {"weight_map": None}, {"weight_map": {}}])
def test_what_is_no_index(shards: Callable[[Any], Path], index: Any) -> None:
    with pytest.raises(CheckpointError, match="is no shard index; expected a 'weight_map'"):
        load_checkpoint(shards(index))


def test_shards_in_a_folder_beside(shards: Callable[[Any], Path]) -> None:
    """Checkpoints that share a body, as the demo's do, load in transformers, too."""
    folder = shards({})
    shutil.copytree(folder, folder.parent / "body")
    there: dict[str, str] = {}
    for file in sorted(folder.glob("*-of-00002.safetensors")):
        there |= dict.fromkeys(load_file(file), f"../body/{file.name}")
        file.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": there}))
    assert load_checkpoint(folder).architecture == LM


def test_deep_nesting_is_no_json(shards: Callable[[Any], Path]) -> None:
    folder = shards({})
    (folder / "model.safetensors.index.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"index\.json' .* is not JSON"):
        load_checkpoint(folder)


def test_two_shards_with_different_tensors_of_one_name(shards: Callable[[Any], Path]) -> None:
    folder = shards(lambda places: {"weight_map": places})
    load_checkpoint(folder)
    one, other = sorted(folder.glob("*-of-00002.safetensors"))
    name, value = next(iter(load_file(one).items()))
    save_file(load_file(other) | {name: value}, other)
    load_checkpoint(folder)
    save_file(load_file(other) | {name: value + 1}, other)
    with pytest.raises(CheckpointError, match=rf"'{name}' is in several weight files .* different values"):
        load_checkpoint(folder)
