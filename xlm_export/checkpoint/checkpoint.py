"""From a checkpoint, a folder or a hub id, to a model with its weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xlm_export.checkpoint.opening import open_source
from xlm_export.checkpoint.source import Source
from xlm_export.checkpoint.tensors import (
    has_prefix,
    listed,
    modern_names,
    names_left_out,
    own_tensors,
    put_into,
    tie,
    with_prefix,
)
from xlm_export.checkpoint.weights import read_weights, weight_files
from xlm_export.errors import CheckpointError
from xlm_export.families.family import LM_HEAD, NO_HEAD, ExportFamily
from xlm_export.families.model import FamilyModel
from xlm_export.families.table import export_family
from xlm_runtime.bundle import file_sha256
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.families import read_config
from xlm_runtime.tasks import TASKS, find_task


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in evaluation mode, float32, and where it came from."""

    source: str
    folder: Path
    config: XLMConfig
    model: FamilyModel
    architecture: str
    new_weights: tuple[str, ...]
    sha256: dict[str, str]
    """Hash of each weight file."""


def load_checkpoint(
    source: str | Path,
    task: str | None = None,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    offline: bool = False,
) -> Checkpoint:
    """Load a folder as `save_pretrained` writes it, today or in 2019, a hub id, or XLM's original `.pth` file.

    Args:
        source: folder, hub id, `id@revision`, or file.
        task: a task name; by default the head that the checkpoint was saved with decides. A checkpoint without the
            task's head gets a new one, which a warning names.
        revision, subfolder: of the hub's repository; the latter of a folder, too.
        offline: use only what the hub's cache holds.

    Raises:
        CheckpointError: files or tensors that are missing, unexpected, misshapen, damaged or of another kind.
        BundleError, InputError: a `config.json` of another model, or one that contradicts itself.
    """
    with open_source(source, revision, subfolder, offline=offline) as found:
        return load_source(found, task)


def load_source(source: Source, task: str | None = None) -> Checkpoint:
    """The same for a folder that was found."""
    config = read_config(source.folder)
    folder = source.folder if source.read is None else source.read[0]  # for errors
    family = export_family(config)
    files, weights = _weights(source)
    own = own_tensors(family, config)
    tensors = modern_names(weights, folder)
    saved = saved_head(family, config, tensors.keys(), own, folder)
    head = _head_for(family, saved, task)
    architecture = family.runtime.architecture(head)
    with torch.device("meta"):
        model = family.models[head](config)
    heads = frozenset(name for names in own.values() for name in names)
    tensors = with_prefix(family, tensors, heads)
    tie(family, config, tensors, projects=family.names.projection in own.get(head, ()))
    prefix = family.names.body if head == NO_HEAD else ""  # of the file's names, before the model's
    expected = {prefix + name: name for name in model.state_dict()}
    left_out = names_left_out(family, tensors.keys() - expected.keys(), heads, head, head == saved, folder)
    fitting = {expected[name]: tensor for name, tensor in tensors.items() if name in expected}
    new = put_into(family, model, fitting, head == saved, folder)
    config.architectures = [architecture]
    hashes = {file.name: file_sha256(file) for file in files}
    if left_out:
        warnings.warn(
            f"The weights of '{source.name}' hold {listed(left_out)}, which {architecture} does not compute with; left "
            "out.",
            stacklevel=3,
        )
    if new:
        warnings.warn(
            f"{architecture} in '{source.name}' has no weights for {', '.join(new)}; they are new and random. "
            "Train the model before using its answers.",
            stacklevel=3,
        )
    return Checkpoint(source.name, folder, config, model.eval(), architecture, tuple(new), hashes)


def _weights(source: Source) -> tuple[list[Path], dict[str, Tensor]]:
    """The files that hold a checkpoint's weights, and their tensors."""
    if source.read is not None:
        path, tensors = source.read
        return [path], dict(tensors)
    files = weight_files(source.folder)
    return files, read_weights(files)


def saved_head(
    family: ExportFamily, config: XLMConfig, names: Set[str], own: Mapping[str, frozenset[str]], folder: Path
) -> str:
    """The head of the model class a checkpoint was saved from: what `architectures` says, unless the tensors are
    those of another one.

    Args:
        names: of the tensors.
        own: see `own_tensors`.

    Raises:
        CheckpointError: an unknown class, or tensors of another head than the configuration names.
    """
    if not config.architectures:
        return next((head for name, head in family.head_tensors if name in names), NO_HEAD)
    named = config.architectures[0]
    if named not in family.architectures:
        raise CheckpointError(
            f"config.json in path '{folder}' names the architecture '{named}'; expected one of "
            f"{', '.join(family.architectures)}."
        )
    head = family.head_of(named)

    def contradicts(other: str) -> bool:
        if head == NO_HEAD:
            return has_prefix(family, names)
        telling = {name for name, its in family.head_tensors if its == head}
        return bool(own[head]) and (own[head] < own[other] or not telling & names)

    tied = {family.names.projection} if config.tie_word_embeddings else set()
    whole = [other for _, other in family.head_tensors if own[other] and own[other] - tied <= names]
    rival = next((other for other in whole if other != head and contradicts(other)), None)
    if rival is not None:
        raise CheckpointError(
            f"config.json in path '{folder}' names the architecture '{named}', but the weights are those of "
            f"'{family.runtime.architecture(rival)}'. Correct 'architectures' in config.json."
        )
    return head


def _head_for(family: ExportFamily, saved: str, task: str | None) -> str:
    """The head to load: the saved one, or that of `task` where the saved one does not answer it."""
    if task is None:
        return saved
    try:
        return find_task(family.runtime.architecture(saved), task).head
    except InputError:
        fitting = [row.head for row in TASKS if row.name == task and row.head in family.models]
        if not fitting:
            raise
        if saved in (NO_HEAD, LM_HEAD) or fitting[0] == NO_HEAD:
            return fitting[0]
        raise
