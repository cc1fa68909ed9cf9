"""Weight files of any year: safetensors or pickled, whole or in shards."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from xlm_export.errors import CheckpointError

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weight_files(folder: Path) -> list[Path]:
    """The weight files of a checkpoint folder, the first kind of `WEIGHT_FILES` that is there.

    Raises:
        CheckpointError: none is there, or a shard that the index names is missing.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.is_file():
            continue
        if not name.endswith(".index.json"):
            return [path]
        try:
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"File '{name}' in path '{folder}' is no shard index: {error!r}.") from error
        for shard in shards:
            if not (folder / shard).is_file():
                raise CheckpointError(f"File '{shard}', named in '{name}', not found in path '{folder}'.")
        return [folder / shard for shard in shards]
    raise CheckpointError(f"No weights found in path '{folder}'; expected one of {', '.join(WEIGHT_FILES)}.")


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors, under their names in the files, on the CPU; safetensors stay mapped from the disk.

    Raises:
        CheckpointError: a file is truncated or not what its name says.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        tensors.update(_read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path))
    return tensors


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"File '{path.name}' in path '{path.parent}' cannot be read as safetensors ({error}). "
            "Is it truncated? Download or save it again."
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        zipped = zipfile.is_zipfile(path)  # files of 2019 are not, and cannot be mapped
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except (RuntimeError, OSError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"File '{path.name}' in path '{path.parent}' cannot be read as PyTorch weights "
            f"({str(error).partition(chr(10))[0] or type(error).__name__}). Is it truncated? Download or save it again."
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(
            f"File '{path.name}' in path '{path.parent}' holds no dictionary of tensors. "
            "Save the model with save_pretrained."
        )
    return loaded
