"""Checkpoints as nobody should have saved them, drawn from a seed: each loads as transformers loads it, or is refused.

`try_checkpoint(seed, folder)` makes one and says what came of it. Anything but the errors that loading documents is a
failure, and so is a weight that differs from transformers'.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.make_checkpoint import make_checkpoint
from xlm_export import CheckpointError, load_checkpoint
from xlm_export.checkpoint.generation import checked_generation_config
from xlm_export.checkpoint.source import find_source
from xlm_export.checkpoint.tokenizer_files import checkpoint_tokenizer
from xlm_export.families.xlm.family import XLM
from xlm_runtime.errors import BundleError, InputError

DOCUMENTED = (CheckpointError, BundleError, InputError)
BASE = "base"
"""What a harmless edit returns: the model is still the one before it."""

RUN = "code-was-run"

_ODD: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 3, 7, 10**9, 10**400, 1.5, 1e-30, float("nan"), float("inf"), "", "x", "0", "first",
    "мир", [], [0], [1, None], ["x"], [[]], {}, {"0": None}, {"x": 1}, {"0": "a", "2": "b"}, {"1": "a"}, {"0": {}},
    {"-1": "a"}, {"en": 99}, {"en": -1}, {"en": "1"}, "\ud800",
)  # fmt: skip
_ODD_SHARDS = (
    None,
    1,
    [],
    {},
    "",
    ".",
    "..",
    "../config.json",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "\0",
    "x" * 300,
    "vocab.json",
)
_SUFFIXES = ("", ".weight", ".gamma", ".x")
_DTYPES = (torch.int64, torch.int8, torch.bool, torch.float16, torch.bfloat16, torch.float64, torch.complex64)


@dataclass
class Damage:
    """One edit, in the words of a report, and `BASE` where the model must be as before."""

    words: str
    model: str | None = None


def try_checkpoint(seed: int, folder: Path) -> str:
    """Damage a checkpoint and load it.

    Args:
        folder: an empty one, for the checkpoint.

    Returns:
        The outcome: "refused", "as before", "as transformers", or "ours alone" where transformers does not load it.

    Raises:
        AssertionError: anything else came; it names the seed and the damage.
    """
    rng = random.Random(seed)
    architecture = rng.choice(XLM.architectures)
    make_checkpoint(folder, architecture, seed % 7, n_layers=1, emb_dim=8, n_heads=2, max_position_embeddings=16)
    base = load_file(folder / "model.safetensors")
    damage = _damage(rng, folder)
    where = f"seed {seed}, {architecture}, {damage.words}"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = load_checkpoint(folder)
            checkpoint_tokenizer(find_source(folder))
            checked_generation_config(folder, loaded.config)
    except DOCUMENTED as error:
        text = str(error)
        assert damage.model != BASE, f"{where}: refused, {text}"
        assert text, where
        assert "weights_only" not in text, where
        return "refused"
    except Exception as error:
        raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        assert not (folder / RUN).exists(), where
    state = loaded.model.state_dict()
    if damage.model == BASE:
        assert all(_equal(state[name], base[name]) for name in base.keys() & state.keys()), where
        return "as before"
    theirs = _theirs(folder, loaded.architecture)
    if theirs is None:
        return "ours alone"
    different = [name for name, value in theirs.items() if name not in state or not _equal(value, state[name])]
    assert not different, f"{where}: {different[:3]} differ from transformers'"
    return "as transformers"


def campaign(count: int, folder: Path, first: int = 0) -> Counter[str]:
    """`count` checkpoints: how many of each outcome.

    Raises:
        AssertionError: some failed; it names all of them.
    """
    outcomes: Counter[str] = Counter()
    failures = []
    for seed in range(first, first + count):
        place = folder / str(seed)
        try:
            outcomes[try_checkpoint(seed, place)] += 1
        except AssertionError as error:
            failures.append(str(error).partition("\n")[0])
        shutil.rmtree(place)
    assert not failures, f"{len(failures)} of {count}, beside {dict(outcomes)}:\n" + "\n".join(failures)
    return outcomes


def _theirs(folder: Path, architecture: str) -> dict[str, torch.Tensor] | None:
    """The weights as transformers loads them; None where it does not, or makes up some of them."""
    transformers.logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, info = getattr(transformers, architecture).from_pretrained(
                folder, output_loading_info=True, local_files_only=True, dtype=torch.float32
            )
    except Exception:  # theirs to raise
        return None
    if info["missing_keys"] or info["mismatched_keys"]:
        return None
    return dict(model.state_dict())


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.float().view(torch.int32), other.float().view(torch.int32))


def _damage(rng: random.Random, folder: Path) -> Damage:
    return rng.choice(
        (_odd_option, _odd_option, _odd_labels, _odd_tensor, _odd_tensor, _harmless, _pickle, _shards, _tokenizer,
         _generation, _bytes, _bytes, _no_file)
    )(rng, folder)  # fmt: skip


def _edit(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    edit(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def _odd_option(rng: random.Random, folder: Path) -> Damage:
    path = folder / "config.json"
    names = sorted(json.loads(path.read_text(encoding="utf-8")))
    name, value = rng.choice([*names, "num_labels", "n_words", "tie_word_embeddings"]), rng.choice(_ODD)
    _edit(path, lambda values: values.update({name: value}))
    if rng.random() < 0.1:
        _edit(path, lambda values: values.pop(name))
        return Damage(f"config without {name}")
    return Damage(f"config {name} = {str(value)[:20]!r}")


def _odd_labels(rng: random.Random, folder: Path) -> Damage:
    labels = {str(rng.choice((i, i, i, i + 1, "x"))): rng.choice(("a", 1, 0.5, True, None, [])) for i in range(2)}
    _edit(folder / "config.json", lambda values: values.update(id2label=labels))
    return Damage(f"id2label {labels}")


def _odd_tensor(rng: random.Random, folder: Path) -> Damage:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = rng.choice(sorted(tensors))
    kind = rng.choice(("drop", "rename", "type", "shape", "twin", "extra", "equal", "zero-dim"))
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[rng.choice(("x", "transformer.x", name + ".x", name[1:]))] = tensors.pop(name)
    elif kind == "type":
        tensors[name] = tensors[name].to(rng.choice(_DTYPES))
    elif kind == "shape":
        tensors[name] = rng.choice((tensors[name].flatten()[:-1], tensors[name][None], tensors[name].flatten()[:0]))
    elif kind == "twin":
        twin = rng.choice(("module." + name, "_orig_mod." + name, name.replace(".weight", ".gamma")))
        tensors[twin] = tensors[name] + 1
    elif kind == "extra":
        tensors[rng.choice(("loss_fct.weight", "pred_layer.proj.bias", "classifier.weight", "y.z"))] = torch.ones(3)
    elif kind == "equal":
        tensors = {key: torch.ones_like(value) for key, value in tensors.items()}
    else:
        tensors[name] = torch.tensor(1.0)
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    return Damage(f"{kind} {name}")


def _harmless(rng: random.Random, folder: Path) -> Damage:
    """What people's tools write, and what changes nothing."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    kind = rng.choice(
        ("wrapped", "inside", "loss", "position_ids", "gamma", "tied the other way", "in a pickle", "2019")
    )
    if kind == "wrapped":
        start = "".join(rng.choice(("module.", "_orig_mod.")) for _ in range(rng.randint(1, 3)))
        tensors = {start + name: value for name, value in tensors.items()}
    elif kind == "inside":
        tensors = {name.replace("attentions.", "attentions._orig_mod."): value for name, value in tensors.items()}
    elif kind == "loss":
        tensors["loss_fct.weight"] = torch.ones(2)
    elif kind == "position_ids":
        tensors["transformer.position_ids"] = torch.arange(16)[None]
    elif kind == "gamma":
        for name in [name for name in tensors if "layer_norm" in name]:
            new = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[new] = tensors.pop(name)
    elif kind == "tied the other way" and "pred_layer.proj.bias" in tensors:
        tensors["pred_layer.proj.weight"] = tensors.pop("transformer.embeddings.weight")
    if kind in ("in a pickle", "2019"):
        path.unlink()
        torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=kind == "in a pickle")
    else:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, path)
    return Damage(kind, BASE)


def _pickle(rng: random.Random, folder: Path) -> Damage:
    """Pickles with something else in them, or damaged."""
    tensors = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    name = rng.choice(sorted(tensors))
    contents: dict[str, Any] = {
        "weights": tensors,
        "a list": list(tensors.values()),
        "a module": torch.nn.Linear(2, 2),
        "under state_dict": {"state_dict": tensors, "epoch": 3},
        "code": {**tensors, "x": shutil.rmtree},
        "a call": _Call(folder / RUN),
        "keys that are numbers": {**tensors, 1: torch.ones(2)},
        "a number": 5,
        "a sparse tensor": {**tensors, name: tensors[name].to_sparse()},
        "a parameter in half": {**tensors, name: torch.nn.Parameter(tensors[name].half())},
        "a sparse projection": {**tensors, "pred_layer.proj.weight": torch.eye(3).to_sparse()},
        "a view of nothing": {**tensors, name: torch.zeros(1).expand(10**12)},
    }
    kind = rng.choice(sorted(contents))
    zipped = rng.random() < 0.6
    torch.save(contents[kind], path, _use_new_zipfile_serialization=zipped)
    if rng.random() < 0.5:
        return Damage(f"pickle with {kind}, {'zip' if zipped else 'plain'}, {_hurt(rng, path)}")
    return Damage(f"pickle with {kind}, {'zip' if zipped else 'plain'}")


@dataclass
class _Call:
    """Would make a folder when it is unpickled, were that allowed."""

    folder: Path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.folder),)


def _shards(rng: random.Random, folder: Path) -> Damage:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    files = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    half = len(names) // 2
    for file, part in zip(files, (names[:half], names[half:]), strict=True):
        save_file({name: tensors[name].clone() for name in part}, folder / file)
    places: dict[str, Any] = {name: files[i >= half] for i, name in enumerate(names)}
    index: Any = {"metadata": {}, "weight_map": places}
    kind = rng.choice(("none", "odd place", "odd index", "twin"))
    if kind == "odd place":
        places[rng.choice(names)] = rng.choice(_ODD_SHARDS)
    elif kind == "odd index":
        index = rng.choice(([], {}, {"weight_map": []}, {"weight_map": None}, {"weight_map": {}}, 5, "x"))
    elif kind == "twin":
        first = {name: tensors[name].clone() for name in names[:half]}
        save_file({**first, names[-1]: tensors[names[-1]] + 1}, folder / files[0])
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return Damage(f"shards, {kind}", BASE if kind == "none" else None)


def _tokenizer(rng: random.Random, folder: Path) -> Damage:
    file = rng.choice(
        ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    )
    path = folder / file
    if path.exists() and rng.random() < 0.3:
        return Damage(f"{file}, {_hurt(rng, path)}")
    names = {
        "vocab.json": ("<s>", "a", "new"),
        "merges.txt": ("x",),
        "tokenizer_config.json": (
            "lang2id", "id2lang", "model_max_length", "padding_side", "do_lowercase_and_remove_accent", "mask_token",
            "added_tokens_decoder", "additional_special_tokens", "unk_token", "clean_up_tokenization_spaces",
        ),
        "special_tokens_map.json": ("pad_token", "additional_special_tokens"),
        "added_tokens.json": ("<new>", "b"),
    }[file]  # fmt: skip
    name, value = rng.choice(names), rng.choice(_ODD)
    values = json.loads(path.read_text(encoding="utf-8")) if path.exists() and file != "merges.txt" else {}
    path.write_text(json.dumps({**values, name: value}), encoding="utf-8")
    return Damage(f"{file} {name} = {str(value)[:20]!r}")


def _generation(rng: random.Random, folder: Path) -> Damage:
    names = (
        "eos_token_id", "max_new_tokens", "do_sample", "temperature", "top_k", "num_beams", "bad_words_ids", "top_p",
        "suppress_tokens", "stop_strings", "early_stopping", "length_penalty", "max_length", "num_return_sequences",
    )  # fmt: skip
    values = {rng.choice(names): rng.choice(_ODD) for _ in range(rng.randint(1, 3))}
    (folder / "generation_config.json").write_text(rng.choice((json.dumps(values), json.dumps(values), "[]", "{", "")))
    return Damage(f"generation_config {str(values)[:60]}")


def _bytes(rng: random.Random, folder: Path) -> Damage:
    file = rng.choice(("model.safetensors", "model.safetensors", "config.json", "vocab.json", "merges.txt"))
    return Damage(f"{file}, {_hurt(rng, folder / file)}")


def _hurt(rng: random.Random, path: Path) -> str:
    """Flip bits, cut, or replace a file's bytes."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(("flip", "flip", "flip a length", "cut", "empty", "noise", "longer", "pointer", "nested"))
    if kind == "flip":
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "flip a length":
        data[rng.randrange(min(len(data), 64))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "empty":
        data.clear()
    elif kind == "noise":
        data = bytearray(rng.randbytes(200))
    elif kind == "longer":
        data += rng.randbytes(50)
    elif kind == "pointer":
        data = bytearray(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n")
    else:
        data = bytearray(b"[" * 100_000)
    path.write_bytes(data)
    return kind


def _no_file(rng: random.Random, folder: Path) -> Damage:
    file = rng.choice(("model.safetensors", "config.json", "vocab.json", "merges.txt", "tokenizer_config.json"))
    path = folder / file
    path.unlink()
    kind = rng.choice(("missing", "a folder", "a pipe"))
    if kind == "a folder":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    return Damage(f"{file} is {kind}")
