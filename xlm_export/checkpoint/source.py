"""Where a checkpoint or tokenizer comes from: a folder, or a repository of the hub in one of its revisions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torch import Tensor

from xlm_export.errors import CheckpointError

TOKENIZER_PATTERNS = ("*.json", "*.txt", "codes*", "vocab*")
CHECKPOINT_PATTERNS = (*TOKENIZER_PATTERNS, "*.safetensors", "pytorch_model*.bin")

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A folder that holds files, and what its user calls it, such as `org/name@revision`."""

    name: str
    folder: Path
    read: tuple[Path, Mapping[str, Tensor]] | None = None
    """Weights that are not in the folder: their file, and its tensors, which were read with the configuration."""


def find_source(
    name: str | Path,
    revision: str | None = None,
    subfolder: str | None = None,
    *,
    offline: bool = False,
    patterns: tuple[str, ...] = CHECKPOINT_PATTERNS,
) -> Source:
    """A folder as it is, or a hub id's, which is downloaded into the hub's cache.

    Args:
        name: folder, hub id, or `id@revision`.
        revision: branch, tag or commit of the hub's repository.
        subfolder: folder within.
        offline: use only what the hub's cache holds.
        patterns: names of the files to download.

    Raises:
        CheckpointError: no such folder, and nothing by this name can be had from the hub.
    """
    given, path = str(name), Path(name)
    if subfolder is not None:
        within = PurePosixPath(subfolder)
        if within.is_absolute() or ".." in within.parts or not within.parts:
            raise CheckpointError(f"subfolder is '{subfolder}'; expected the name of a folder within the checkpoint's.")
        patterns = tuple(f"{within}/{pattern}" for pattern in patterns)
    if path.is_dir():
        if revision is not None:
            raise CheckpointError(f"revision '{revision}' was given, but '{given}' is a folder here; leave it out.")
        return Source(given, _within(path, subfolder, given))
    if path.is_file():
        raise CheckpointError(
            f"'{given}' is a file; give the folder that holds config.json and the weights, or a .pth file of XLM's "
            "original code."
        )
    hub_id, _, named = given.partition("@")
    if not _HUB_ID.fullmatch(hub_id) or hub_id.startswith("."):
        raise CheckpointError(f"Folder '{given}' not found.")
    if named and revision not in (None, named):
        raise CheckpointError(f"'{given}' names the revision '{named}', and revision is '{revision}'; give one.")
    revision = revision or named or None
    given = hub_id if revision is None else f"{hub_id}@{revision}"
    return Source(given, _within(_download(given, hub_id, revision, offline, patterns), subfolder, given))


def _within(folder: Path, subfolder: str | None, name: str) -> Path:
    if subfolder is None:
        return folder
    if not (folder / subfolder).is_dir():
        raise CheckpointError(f"'{name}' has no folder '{subfolder}'.")
    return folder / subfolder


def _download(name: str, hub_id: str, revision: str | None, offline: bool, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns), local_files_only=offline)
        )
    except Exception as error:  # the hub's client raises many kinds, network libraries' among them
        raise CheckpointError(
            f"'{name}' is no folder here, and it could not be downloaded from the hub "
            f"({type(error).__name__}). Check the spelling; without network, download the repository elsewhere and "
            "give the folder that holds its config.json."
        ) from error
