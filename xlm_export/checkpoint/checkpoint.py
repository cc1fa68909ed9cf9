"""From a checkpoint, a folder or a hub id, to a model with its weights."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

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


def load_checkpoint(source: str | Path, task: str | None = None, *, offline: bool = False) -> Checkpoint:
    """Load a folder as `save_pretrained` writes it, today or in 2019, or a hub id.

    Args:
        source: folder or hub id.
        task: a task name; by default the head that the checkpoint was saved with decides. A checkpoint without the
            task's head gets a new one, which a warning names.
        offline: use only what the hub's cache holds.

    Raises:
        CheckpointError: files or tensors that are missing, unexpected, misshapen or truncated.
        BundleError, InputError: a `config.json` of another model, or one that contradicts itself.
    """
    folder = find_folder(str(source), offline=offline)
    config = read_config(folder)
    family = export_family(config)
    files = weight_files(folder)
    tensors = {_modern_name(name): tensor for name, tensor in read_weights(files).items()}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("position_ids")}
    saved = saved_head(family, config, tensors, folder)
    head = _head_for(family, saved, task)
    architecture = family.runtime.architecture(head)
    with torch.device("meta"):
        model = family.models[head](config)
    new = _assign(family, model, _fit_prefix(family, tensors, head), saved == head, folder)
    config.architectures = [architecture]
    hashes = {file.name: file_sha256(file) for file in files}
    if new:
        warnings.warn(
            f"{architecture} in '{source}' has no weights for {', '.join(new)}; they are new and random. "
            "Train the model before using its answers.",
            stacklevel=2,
        )
    return Checkpoint(str(source), folder, config, model.eval(), architecture, tuple(new), hashes)


def find_folder(source: str, *, offline: bool = False) -> Path:
    """The folder of a checkpoint; a hub id is downloaded into the hub's cache.

    Raises:
        CheckpointError: no such folder, and nothing by this name can be had from the hub.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(f"'{source}' is a file; give the folder that holds config.json and the weights.")
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1 or "\\" in source:
        raise CheckpointError(f"Folder '{source}' not found.")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", "*.safetensors", "pytorch_model*.bin"]
        return Path(snapshot_download(source, allow_patterns=patterns, local_files_only=offline))
    except Exception as error:  # the hub's client raises many kinds, network libraries' among them
        raise CheckpointError(
            f"'{source}' is no folder here, and it could not be downloaded from the hub "
            f"({type(error).__name__}). Check the spelling; without network, download the repository elsewhere and "
            "give the folder that holds its config.json."
        ) from error


def saved_head(family: ExportFamily, config: XLMConfig, tensors: dict[str, Tensor], folder: Path) -> str:
    """The head of the model class a checkpoint was saved from: what `architectures` says, confirmed by the tensors.

    Raises:
        CheckpointError: an unknown class, or tensors of another head than the configuration names.
    """
    held = next((head for name, head in family.head_tensors if name in tensors), NO_HEAD)
    if not config.architectures:
        return held
    named = config.architectures[0]
    if named not in family.architectures:
        raise CheckpointError(
            f"config.json in path '{folder}' names the architecture '{named}'; expected one of "
            f"{', '.join(family.architectures)}."
        )
    head = family.head_of(named)
    if held not in (head, NO_HEAD):
        raise CheckpointError(
            f"config.json in path '{folder}' names the architecture '{named}', but the weights are those of "
            f"'{family.runtime.architecture(held)}'. Correct 'architectures' in config.json."
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


def _modern_name(name: str) -> str:
    """A tensor's name today: data-parallel prefix off, TensorFlow's names of LayerNorm's weights replaced."""
    name = name.removeprefix("module.")
    if name.endswith(".gamma"):
        return name.removesuffix(".gamma") + ".weight"
    if name.endswith(".beta"):
        return name.removesuffix(".beta") + ".bias"
    return name


def _fit_prefix(family: ExportFamily, tensors: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    """The transformer's tensors with the family's prefix in models with a head, and without it in the bare model."""
    prefix = family.names.body
    prefixed = any(name.startswith(prefix) for name in tensors)
    if head == NO_HEAD:
        if not prefixed:
            return tensors
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return tensors if prefixed else {prefix + name: tensor for name, tensor in tensors.items()}


def _assign(
    family: ExportFamily, model: FamilyModel, tensors: dict[str, Tensor], same_head: bool, folder: Path
) -> list[str]:
    """Put `tensors` into `model` (on the meta device) and return the names of those that had to be made new."""
    expected = model.state_dict()
    prefix = "" if model.body is model else family.names.body
    _complete(family, model.config, prefix, tensors, expected)
    missing = [name for name in expected if name not in tensors]
    body = [name for name in missing if name.startswith(prefix)]
    if body or (same_head and missing):
        raise CheckpointError(f"Tensors missing in the weights in path '{folder}': {_listed(body or missing)}.")
    unexpected = [name for name in tensors if name not in expected and (same_head or name.startswith(prefix))]
    if unexpected:
        raise CheckpointError(f"Unexpected tensors in the weights in path '{folder}': {_listed(unexpected)}.")
    for name, tensor in tensors.items():
        if name in expected and tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"Tensor '{name}' in the weights in path '{folder}' has shape {tuple(tensor.shape)}, but the "
                f"configuration asks for {tuple(expected[name].shape)}."
            )
    state = {name: tensor.float() for name, tensor in tensors.items() if name in expected}
    state |= {name: _new_weight(model, name, expected[name]) for name in missing}
    for parameter_name, parameter in model.named_parameters():
        state[parameter_name].requires_grad_(parameter.requires_grad)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return missing


def _complete(
    family: ExportFamily, config: XLMConfig, prefix: str, tensors: dict[str, Tensor], expected: dict[str, Tensor]
) -> None:
    """Add what a file may leave out because it follows from the rest: the tied projection, the position table."""
    projection, embeddings = family.names.projection, prefix + family.names.word_embeddings
    if projection in expected and config.tie_word_embeddings and embeddings in tensors:
        if projection not in tensors:
            tensors[projection] = tensors[embeddings]
        elif not torch.equal(tensors[projection], tensors[embeddings]):
            raise CheckpointError(
                f"tie_word_embeddings is true, but the tensors '{projection}' and '{embeddings}' differ. "
                "Set tie_word_embeddings to false in config.json to keep both."
            )
    positions = prefix + family.names.positions
    if positions not in tensors and (table := family.fixed_positions(config)) is not None:
        tensors[positions] = table


def _new_weight(model: FamilyModel, name: str, like: Tensor) -> Tensor:
    owner, _, kind = name.rpartition(".")
    if kind == "bias":
        return torch.zeros(like.shape)
    if isinstance(model.get_submodule(owner), nn.LayerNorm):
        return torch.ones(like.shape)
    return torch.empty(like.shape).normal_(0, model.config.init_std, generator=torch.Generator().manual_seed(0))


def _listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
