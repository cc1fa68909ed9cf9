"""Checkpoints of XLM's original code, facebookresearch/XLM: a `.pth` file with weights, options and words."""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from xlm_export.checkpoint.weights import read_pickle
from xlm_export.errors import CheckpointError
from xlm_export.families.xlm.fastbpe import SPECIAL, hugging_face_names, read_vocabulary, write_files
from xlm_runtime.tokenization.files import CONFIG

# What the files hold beside tensors and plain values: options as a namespace, and numpy's numbers and arrays, under the
# names that its versions write. None of them runs code.
_numpy = import_module("numpy._core.multiarray" if find_spec("numpy._core") else "numpy.core.multiarray")
_ALLOWED = (
    argparse.Namespace,
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefdSUO"),
    *(
        (getattr(_numpy, name), f"{module}.multiarray.{name}")
        for module in ("numpy.core", "numpy._core")
        for name in ("scalar", "_reconstruct")
    ),
)

_OPTIONS = (
    "emb_dim",
    "n_layers",
    "n_heads",
    "dropout",
    "attention_dropout",
    "gelu_activation",
    "sinusoidal_embeddings",
    "asm",
    "asm_div_value",
    "n_langs",
    "use_lang_emb",
    "lang2id",
    "id2lang",
)
_EMBEDDINGS, _POSITIONS, _PROJECTION = "embeddings.weight", "position_embeddings.weight", "pred_layer.proj."
_NEEDED = ("emb_dim", "n_layers", "n_heads")
_CASED = 0.1
"""A vocabulary with a larger share of tokens with capital letters was made of text with capital letters. Of the
xnli15's, whose text had none, 4% have one (of scripts that its tool left alone); of the en-de model's, 37%."""


def convert_checkpoint(path: Path, folder: Path, codes: Path | None, vocab: Path | None) -> Mapping[str, Tensor]:
    """Write the configuration of an original checkpoint, and with `codes` its tokenizer, as Hugging Face's files.

    Names and words as `convert_xlm_original_pytorch_checkpoint_to_pytorch.py` of transformers gives them. A model that
    was trained by causal language modelling alone is causal, which that script forgets.

    Args:
        path: the file. Loaded without running code.
        folder: where to write.
        codes: fastBPE's.
        vocab: XLM's vocabulary, whose first words must be those of the file.

    Returns:
        The weights, under the original names.

    Raises:
        CheckpointError: another file, a model that this project does not have, or words that are not those of `vocab`.
    """
    loaded = read_pickle(path, _ALLOWED)
    where = f"File '{path.name}' in path '{path.parent}'"
    params, tensors = _parts(loaded, where)
    plain = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}  # of training on several GPUs
    words = _words(loaded, plain, where)
    if vocab is not None:
        _compare(words, read_vocabulary(vocab), path, vocab)
    config = _configuration(params, plain, words, where)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = {"do_lowercase_and_remove_accent": not _is_cased(words)}
    tokenizer |= {name: config[name] for name in ("lang2id", "id2lang") if name in config}
    (folder / CONFIG).write_text(json.dumps(tokenizer), encoding="utf-8")
    if codes is not None:
        write_files(folder, words, codes)
    return tensors


def _parts(loaded: Any, where: str) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    """The options and the weights."""
    if not isinstance(loaded, dict) or "params" not in loaded:
        raise CheckpointError(
            f"{where} is no checkpoint of XLM's original code; expected a dictionary with 'model', 'params' and "
            "'dico_word2id'. For weights alone give the folder that holds config.json."
        )
    if "encoder" in loaded or "decoder" in loaded:
        raise CheckpointError(
            f"{where} holds an encoder and a decoder, for translation, which is not supported yet; expected 'model', "
            "as pre-training an encoder writes it (--encoder_only true)."
        )
    params, tensors = loaded["params"], loaded.get("model")
    params = vars(params) if isinstance(params, argparse.Namespace) else params
    if not isinstance(params, dict) or not isinstance(tensors, dict) or not tensors:
        raise CheckpointError(f"{where} has no options under 'params', or no weights under 'model'.")
    strange = [name for name, value in tensors.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strange:
        raise CheckpointError(f"{where} has under 'model' {strange[0]!r}, which is no tensor with a name.")
    if params.get("use_memory") or any("memories." in name for name in tensors):
        raise CheckpointError(
            f"{where} is a model with product-key memories (--use_memory), which are not supported: neither "
            "transformers nor this project has them."
        )
    missing = [name for name in _NEEDED if name not in params]
    if missing:
        raise CheckpointError(f"{where} has no {', '.join(missing)} under 'params'.")
    return params, tensors


def _words(loaded: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> dict[str, int]:
    """Token → id, by Hugging Face's names."""
    words = loaded.get("dico_word2id")
    if not isinstance(words, dict) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{where} has no words under 'dico_word2id'.")
    if sorted(map(str, words.values())) != sorted(map(str, range(len(words)))) or [
        words.get(token) for token in SPECIAL
    ] != list(range(len(SPECIAL))):
        raise CheckpointError(
            f"{where} has words under 'dico_word2id' that are not numbered as XLM numbers them: "
            f"{', '.join(SPECIAL[:4])} and ten more special ones from 0 to {len(SPECIAL) - 1}, then each word once."
        )
    embeddings = tensors.get(_EMBEDDINGS)
    if embeddings is None or embeddings.ndim != 2:
        raise CheckpointError(f"{where} has no '{_EMBEDDINGS}' under 'model'.")
    if len(words) != len(embeddings):
        raise CheckpointError(
            f"{where} has {len(words)} words, but embeddings of {len(embeddings)}; they are of different models."
        )
    named = hugging_face_names({word: int(index) for word, index in words.items()})
    if len(named) != len(words):
        raise CheckpointError(f"{where} has words under 'dico_word2id' that only differ in '@@'.")
    return named


def _configuration(
    params: Mapping[str, Any], tensors: Mapping[str, Tensor], words: Mapping[str, int], where: str
) -> dict[str, Any]:
    """`config.json`."""
    config = {name: _plain(params[name]) for name in _OPTIONS if params.get(name) is not None}
    config["model_type"] = "xlm"
    config["vocab_size"] = len(words)
    if _POSITIONS in tensors:
        config["max_position_embeddings"] = len(tensors[_POSITIONS])
    cutoffs = params.get("asm_cutoffs")
    if config.get("asm"):
        config["asm_cutoffs"] = list(map(int, cutoffs.split(","))) if isinstance(cutoffs, str) else _plain(cutoffs)
    config["tie_word_embeddings"] = bool(params.get("share_inout_emb", True)) and not config.get("asm", False)
    predicts = any(name.startswith(_PROJECTION) for name in tensors)
    config["architectures"] = ["XLMWithLMHeadModel" if predicts else "XLMModel"]
    if params.get("clm_steps") and not params.get("mlm_steps"):
        config["causal"] = True
        warnings.warn(f"{where} was trained by causal language modelling alone; the model is causal.", stacklevel=5)
    if "id2lang" in config:
        config["id2lang"] = {str(number): lang for number, lang in config["id2lang"].items()}
    return config


def _plain(value: Any) -> Any:
    """For JSON: numpy's numbers and arrays as Python's."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _is_cased(words: Mapping[str, int]) -> bool:
    own = [word for word, index in words.items() if index >= len(SPECIAL)]
    return sum(word != word.lower() for word in own) > _CASED * len(own)


def _compare(words: Mapping[str, int], given: Mapping[str, int], path: Path, vocab: Path) -> None:
    """Whether the first words of a vocabulary are a checkpoint's; XLM takes as many as `--max_vocab` says."""
    other = {index: word for word, index in given.items()}
    for word, index in words.items():
        if other.get(index) != word:
            there = f"'{other[index]}'" if index in other else "no word"
            raise CheckpointError(
                f"The vocabulary '{vocab}' is not that of '{path}': word {index} is '{word}' in the checkpoint and "
                f"{there} in the vocabulary. Give the one that it was trained with."
            )
