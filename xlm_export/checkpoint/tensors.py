"""From the tensors of a file to a model's: names of any year, what is left out, what follows from the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Set
from pathlib import Path

import torch
from torch import Tensor, nn

from xlm_export.checkpoint.weights import check_is_weight
from xlm_export.errors import CheckpointError
from xlm_export.families.family import NO_HEAD, ExportFamily
from xlm_export.families.model import FamilyModel
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError

# what training in parallel, compiled or with checkpoints of activations puts into names, in any order
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}  # TensorFlow's names of LayerNorm's weights

Tensors = dict[str, Tensor]


def modern_names(tensors: Tensors, folder: Path) -> Tensors:
    """The tensors under today's names.

    Raises:
        CheckpointError: two of them have one name today.
    """
    found: Tensors = {}
    before: dict[str, str] = {}
    for name, tensor in tensors.items():
        new = _modern(name)
        if new in found:
            raise CheckpointError(
                f"The weights in path '{folder}' hold '{before[new]}' and '{name}', which are both names of '{new}', "
                "and only one can be meant. Take the other one out."
            )
        found[new], before[new] = tensor, name
    return found


def own_tensors(family: ExportFamily, config: XLMConfig) -> dict[str, frozenset[str]]:
    """Each head's tensors beside the transformer's; none for a head that the configuration does not fit."""
    one_layer = dataclasses.replace(config, n_layers=1)

    def names(head: str) -> Iterable[str]:
        try:
            with torch.device("meta"):
                return family.models[head](one_layer).state_dict()
        except InputError:
            return ()

    body = family.names.body
    heads = [head for head in family.models if head != NO_HEAD]
    return {head: frozenset(name for name in names(head) if not name.startswith(body)) for head in heads}


def has_prefix(family: ExportFamily, names: Iterable[str]) -> bool:
    """Whether a file's names are those of a model with a head, where the transformer's have the family's prefix."""
    return any(name.startswith(family.names.body) and not family.dropped.search(name) for name in names)


def with_prefix(family: ExportFamily, tensors: Tensors, heads: Container[str]) -> Tensors:
    """The transformer's tensors with the family's prefix, as models with a head have them.

    Args:
        heads: names of heads' tensors, which have no prefix.
    """
    prefix = family.names.body
    if has_prefix(family, tensors):
        return dict(tensors)
    return {name if name in heads else prefix + name: tensor for name, tensor in tensors.items()}


def names_left_out(
    family: ExportFamily, extra: Set[str], heads: Container[str], head: str, same_head: bool, folder: Path
) -> list[str]:
    """Which of a file's tensors a warning names: what inference needs not, and what is left of another head.

    Args:
        extra: the tensors that the model has not.
        heads: names of heads' tensors.
        head: the one to load, and whether the file was saved with it.

    Raises:
        CheckpointError: a tensor of the transformer, or beside a head, that the model has no place for.
    """
    known = {name for name in extra if family.dropped.search(name)}
    others = {name for name in extra - known if name in heads}
    strange = extra - known - others
    unexpected = [name for name in strange if name.startswith(family.names.body) or (same_head and head != NO_HEAD)]
    if unexpected:
        raise CheckpointError(
            f"Unexpected tensors in the weights in path '{folder}': {listed(sorted(unexpected))}. Is config.json that "
            "of another checkpoint?"
        )
    return sorted(extra if same_head else extra - others)


def tie(family: ExportFamily, config: XLMConfig, tensors: Tensors, projects: bool) -> None:
    """Add the one of the words' embeddings and a projection tied to them that a file leaves out.

    Args:
        projects: whether the model has the projection.
    """
    projection, words = family.names.projection, family.names.body + family.names.word_embeddings
    if not config.tie_word_embeddings or config.asm:
        return
    if projection in tensors:
        tensors.setdefault(words, tensors[projection])
    elif projects and words in tensors:
        tensors[projection] = tensors[words]


def put_into(family: ExportFamily, model: FamilyModel, tensors: Tensors, same_head: bool, folder: Path) -> list[str]:
    """Put tensors into a model on the meta device, and make new ones for a head that the file has not.

    Args:
        tensors: by the model's names; others are left alone.
        same_head: whether the file must hold all of the model.

    Returns:
        The names of the new ones.

    Raises:
        CheckpointError: tensors that are missing, misshapen, or no weights, or tied ones that differ.
    """
    expected = model.state_dict()
    prefix = "" if model.body is model else family.names.body
    positions = prefix + family.names.positions
    state: Tensors = {}
    for name in tensors.keys() & expected.keys():
        check_is_weight(name, tensors[name], f"in path '{folder}'")
        if tensors[name].shape != expected[name].shape:
            raise CheckpointError(
                f"Tensor '{name}' in the weights in path '{folder}' has shape {tuple(tensors[name].shape)}, but the "
                f"configuration asks for {tuple(expected[name].shape)}."
            )
        state[name] = tensors[name].detach().float()
    projection, words = family.names.projection, prefix + family.names.word_embeddings
    tied = model.config.tie_word_embeddings and {projection, words} <= state.keys()
    if tied and not torch.equal(state[projection], state[words]):
        raise CheckpointError(
            f"tie_word_embeddings is true, but the tensors '{projection}' and '{words}' differ. "
            "Set tie_word_embeddings to false in config.json to keep both."
        )
    missing = [name for name in expected if name not in state]
    needed = [name for name in missing if same_head or name.startswith(prefix)]
    if needed == [positions] and (table := family.fixed_positions(model.config)) is not None:
        state[positions], needed = table, []
        missing.remove(positions)
    if needed:
        raise CheckpointError(f"Tensors missing in the weights in path '{folder}': {listed(needed)}.")
    state |= {name: _new_weight(model, name, expected[name]) for name in missing}
    for parameter_name, parameter in model.named_parameters():
        state[parameter_name].requires_grad_(parameter.requires_grad)
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return missing


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names, and how many more there are."""
    found = list(names)
    shown = ", ".join(found[:most])
    return f"{shown} and {len(found) - most} more" if len(found) > most else shown


def _modern(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    return ".".join([*parts[:-1], _OLD_ENDS.get(parts[-1], parts[-1])]) if len(parts) > 1 else ".".join(parts)


def _new_weight(model: FamilyModel, name: str, like: Tensor) -> Tensor:
    owner, _, kind = name.rpartition(".")
    if kind == "bias":
        return torch.zeros(like.shape)
    if isinstance(model.get_submodule(owner), nn.LayerNorm):
        return torch.ones(like.shape)
    return torch.empty(like.shape).normal_(0, model.config.init_std, generator=torch.Generator().manual_seed(0))
