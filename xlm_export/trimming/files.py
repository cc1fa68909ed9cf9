"""A trimmed checkpoint's weights and configurations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from xlm_export.checkpoint.tensors import modern_names
from xlm_export.checkpoint.weights import read_weights, weight_files
from xlm_export.errors import CheckpointError
from xlm_export.families.family import ExportFamily
from xlm_export.trimming.words import Selection
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError

_WEIGHTS = "model.safetensors"
# entries of configurations that are ids, or lists of ids, or lists of these
_IDS = (
    *(f"{name}_token_id" for name in ("pad", "bos", "eos", "sep", "cls", "unk", "mask")),
    *(f"{name}_index" for name in ("pad", "bos", "eos", "unk", "mask")),
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id"),
    *("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"),
)
# that have ids in forms of their own
_UNREAD = ("sequence_bias", "forced_decoder_ids", "constraints")


def save_trimmed_weights(
    folder: Path, target: Path, family: ExportFamily, config: XLMConfig, ids: Collection[int]
) -> None:
    """Write a checkpoint's weights as `model.safetensors`, under today's names, with the rows of these words alone.

    Tensors stay mapped from the checkpoint's files, so that only the rows that stay are copied.

    Args:
        folder: the checkpoint.
        target: the folder to write to, which has `config.json` already.
        ids: of the words, in the order of their new ids.

    Raises:
        CheckpointError: a table of another number of words.
    """
    tensors = modern_names(read_weights(weight_files(folder)), folder)
    words, projection = family.names.word_embeddings, family.names.projection
    if config.tie_word_embeddings and {words, family.names.body + words} & tensors.keys():
        tensors.pop(projection, None)  # the same, as loading found
    rows = torch.tensor(list(ids))
    for name in (words, family.names.body + words, projection, projection.removesuffix("weight") + "bias"):
        if name not in tensors:
            continue
        if len(tensors[name]) != config.vocab_size:
            raise CheckpointError(
                f"Tensor '{name}' in the weights in path '{folder}' has {len(tensors[name])} rows; expected one for "
                f"each of vocab_size {config.vocab_size} words."
            )
        tensors[name] = tensors[name][rows]
    save_file(dict(_apart(tensors)), target / _WEIGHTS, metadata={"format": "pt"})
    shutil.copymode(target / "config.json", target / _WEIGHTS)  # safetensors lets nobody else read it


def _apart(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors, each in memory of its own, as safetensors have them."""
    places: set[int] = set()
    for name, tensor in tensors.items():
        yield name, tensor.clone() if tensor.data_ptr() in places else tensor.contiguous()
        places.add(tensor.data_ptr())


def ids_named(values: Mapping[str, Any], file: str) -> set[int]:
    """The ids that a configuration names.

    Raises:
        InputError: it has some in a form that is not renumbered.
    """
    unread = [name for name in _UNREAD if values.get(name)]
    if unread:
        raise InputError(
            f"{file} has {unread[0]}, whose ids are not renumbered; take it out of the file, and put it back with the "
            "new ids, which the trimmed checkpoint's vocab.json has."
        )
    return {index for name in _IDS for index in _flat(values.get(name))}


def renumbered(values: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
    """A configuration with new ids."""
    new_ids = selection.new_ids
    return {name: _map(value, new_ids) if name in _IDS else value for name, value in values.items()}


def trimmed_config(values: Mapping[str, Any], selection: Selection, languages: Collection[str]) -> dict[str, Any]:
    """What `config.json` holds for fewer words, and, where `languages` are given, for these alone.

    A language keeps its number and its embedding.

    Raises:
        InputError: the default language is none of them.
    """
    trimmed = renumbered(values, selection)
    for name in {"vocab_size", "n_words"} & values.keys() or {"vocab_size"}:
        trimmed[name] = len(selection.ids)
    if languages:
        default = values.get("default_lang")
        if default is not None and default not in languages:
            raise InputError(
                f"config.json has the default_lang '{default}', which is not among the languages that stay "
                f"({', '.join(languages)}); name it, too, or take it out of config.json."
            )
        if isinstance(values.get("lang2id"), dict):
            trimmed["lang2id"] = {lang: number for lang, number in values["lang2id"].items() if lang in languages}
        if isinstance(values.get("id2lang"), dict):
            trimmed["id2lang"] = {number: lang for number, lang in values["id2lang"].items() if lang in languages}
    return trimmed


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """A configuration as transformers writes it."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _flat(value: Any) -> Iterator[int]:
    """The whole numbers in lists in one another."""
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value


def _map(value: Any, new_ids: Mapping[int, int]) -> Any:
    if isinstance(value, list):
        return [_map(each, new_ids) for each in value]
    return new_ids.get(value, value) if isinstance(value, int) else value
