"""Weight files of any year: safetensors or pickled, whole or in shards."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from xlm_export.errors import CheckpointError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_BLOCK = 1 << 20
_SHARD = re.compile(r"[^/\\\0]{1,200}|\.\./(?!\.\.)[\w.-]{1,100}/[\w.-]{1,100}\.safetensors")
_GLOBAL = re.compile(r"GLOBAL (\S+)")  # what a pickle would call, in torch's message


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder, the first kind of `WEIGHT_FILES` that is there.

    Raises:
        CheckpointError: none is there, or the index of shards is none or names a file that is not in the folder.
    """
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _shards(folder, name) if name.endswith(".index.json") else [folder / name]
    raise CheckpointError(f"No weights found in path '{folder}'; expected one of {', '.join(WEIGHT_FILES)}.")


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors, under their names in the files, on the CPU; safetensors stay mapped from the disk.

    Raises:
        CheckpointError: a file is truncated, damaged or not what its name says, holds anything else than floating-point
            tensors, or two files hold different tensors of one name.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        found = _read_safetensors(path) if path.suffix == ".safetensors" else _read_state(path)
        for name, tensor in found.items():
            if name in tensors and not _same(tensors[name], tensor):
                raise CheckpointError(
                    f"Tensor '{name}' is in several weight files in path '{path.parent}', '{path.name}' among them, "
                    "with different values. Save the model again with save_pretrained."
                )
        tensors |= found
    return tensors


def check_is_weight(name: str, tensor: Tensor, where: str) -> None:
    """Whether a model can compute with a tensor.

    Raises:
        CheckpointError: it is no dense tensor of floating-point numbers.
    """
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        kind = str(tensor.dtype).removeprefix("torch.") if tensor.layout == torch.strided else "sparse numbers"
        raise CheckpointError(
            f"Tensor '{name}' in the weights {where} holds {'nothing' if tensor.is_meta else kind}; expected "
            "floating-point numbers, dense. Save the weights as they were trained, not quantised."
        )


def _shards(folder: Path, name: str) -> list[Path]:
    """The files that an index of shards names."""
    try:
        values = json.loads((folder / name).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"File '{name}' in path '{folder}' is not JSON: {error}.") from error
    places = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            f"File '{name}' in path '{folder}' is no shard index; expected a 'weight_map' from each tensor's name to "
            "the file that holds it."
        )
    for tensor, shard in places.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise CheckpointError(
                f"File '{name}' in path '{folder}' names {shard!r} as the file of '{tensor}'; expected the name of "
                "a file in the same folder, or '../FOLDER/FILE.safetensors' in one beside it."
            )
    for shard in sorted(set(places.values())):
        if not (folder / shard).is_file():
            raise CheckpointError(f"File '{shard}', named in '{name}', not found in path '{folder}'.")
    return [folder / shard for shard in sorted(set(places.values()))]


def _refuse_pointer(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise CheckpointError(
                f"File '{path.name}' in path '{path.parent}' is a Git LFS pointer, which says where the weights are, "
                "and not the weights. Fetch them with `git lfs pull`, or download the file itself."
            )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    _refuse_pointer(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except Exception as error:  # what damaged bytes raise depends on where they are damaged
        raise CheckpointError(
            f"File '{path.name}' in path '{path.parent}' cannot be read as safetensors ({error}). "
            "Is it truncated? Download or save it again."
        ) from error


def read_pickle(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """What `torch.save` wrote, on the CPU; tensors of zip archives stay mapped from the disk. No code is run.

    Args:
        allowed: what it may hold beside tensors and plain values, see `torch.serialization.safe_globals`.

    Raises:
        CheckpointError: it is truncated, damaged, a Git LFS pointer, or holds something else.
    """
    _refuse_pointer(path)
    zipped = zipfile.is_zipfile(path)  # files of 2019 are not, and cannot be mapped
    if zipped:
        _check_archive(path)
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # what damaged bytes raise depends on where they are damaged
        raise _unreadable(path, error) from error


def _read_state(path: Path) -> dict[str, Tensor]:
    loaded = read_pickle(path)
    foreign = _foreign(loaded)
    if foreign:
        raise CheckpointError(
            f"File '{path.name}' in path '{path.parent}' holds no dictionary of tensors, but {foreign}. Save the model "
            "with save_pretrained, or its weights with torch.save(model.state_dict(), …)."
        )
    return dict(loaded)


def _foreign(loaded: Any) -> str | None:
    """What a loaded pickle holds in place of a dictionary of tensors, None where it holds one."""
    if not isinstance(loaded, dict):
        return f"a {type(loaded).__name__}"
    for name, value in loaded.items():
        if not isinstance(name, str):
            return f"a dictionary whose key {name!r} is no string"
        if not isinstance(value, Tensor):
            return f"one that has a {type(value).__name__} under '{name}'"
    return None


def _check_archive(path: Path) -> None:
    """Whether a zip archive's contents have the checksums that it notes, which torch does not compare.

    Raises:
        CheckpointError: they have not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > path.stat().st_size:  # torch.save compresses nothing
                raise zipfile.BadZipFile("its parts are larger than the file")
            for entry in entries:
                with archive.open(entry) as part:
                    while part.read(_BLOCK):  # the end compares the checksum
                        pass
    except Exception as error:  # what damaged bytes raise depends on where they are damaged
        raise CheckpointError(
            f"File '{path.name}' in path '{path.parent}' is damaged ({error}). Download or save it again."
        ) from error


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Why torch does not read a pickle: it holds more than tensors, or is damaged."""
    where = f"File '{path.name}' in path '{path.parent}'"
    message = str(error)
    if found := _GLOBAL.search(message):
        if found[1].endswith(".dictionary.Dictionary"):
            return CheckpointError(
                f"{where} holds an object of the code that wrote it ('{found[1]}'), which is not run here. In that "
                "code's folder write its words as plain values: python -c \"import torch; "
                f"c = torch.load('{path.name}', map_location='cpu'); d = c.pop('dico'); "
                "c.update(dico_id2word=d.id2word, dico_word2id=d.word2id, dico_counts=d.counts); "
                "torch.save(c, 'plain.pth')\" and give plain.pth."
            )
        return CheckpointError(
            f"{where} is a pickle that holds code ('{found[1]}') and not weights alone; nothing of it was run. Save "
            "the weights alone, with save_pretrained or torch.save(model.state_dict(), …), and take no such file from "
            "people you do not know."
        )
    # around its reason torch puts advice to load the file without its checks
    reason = message.partition("\n\nCheck the documentation")[0].rpartition("WeightsUnpickler error:")[2].strip()
    reason = reason.partition("\n")[0] or type(error).__name__
    return CheckpointError(
        f"{where} cannot be read as PyTorch weights ({reason}). Is it truncated? Download or save it again."
    )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
