"""What the JSON files of a bundle may hold: a table each, which is checked before any field is used.

A bundle may come from anywhere, so names are names inside its folder, sizes have bounds, and a file that is read has
its hash in `bundle.json`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.checked_json import (
    MismatchError,
    check_regular,
    flag,
    list_of,
    map_of,
    matching,
    nullable,
    one_of,
    positive,
    record,
    text,
    tree,
    whole,
)
from xlm_runtime.errors import BundleError

BUNDLE_FILE, LOCK_FILE, ENGINES_FOLDER = "bundle.json", ".bundle.lock", "engines"
STATUSES = ("passed", "failed", "not run")
# Where the token stands that says whether a question has an answer: at the first </s>, at the last real token, or at 0.
CLS_INDEX_CONVENTIONS = ("first-sep", "last", "first")

# Where language embeddings come from: graphs have the input `langs`, in which -1 stands for none; else there is "none",
# or that of the language by this name in every text.
LANGS_INPUT, LANGS_NONE = "input", "none"

READ_FILES = (
    "config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "moses.json",
    "whole_words.bin",
    "token_index.bin",
)
"""Beside graphs and their weights, what is read wherever it is there: `bundle.json` has its hash or it is refused."""

# no separators of any system, no drives, and nothing that a terminal or a shell would act on
_NAME = r"(?!\.{1,2}$)[^/\\:\x00-\x1f\x7f]{1,255}"
_WORD = matching(r"[\w.+-]{1,64}", "a word of letters, digits, '.', '_', '+' and '-'")
_HEX = matching(r"[0-9a-f]{64}", "a sha256, 64 hexadecimal digits")


def file_name(value: Any, where: str) -> None:
    """A plain name of a file in the bundle's folder, which is none of the folder's own."""
    matching(_NAME, "a plain file name inside the bundle's folder")(value, where)
    if value in (BUNDLE_FILE, LOCK_FILE, ENGINES_FOLDER):
        raise MismatchError(value, where, "a file beside the table of contents, its lock and the engines")


_GRAPH_FILE = matching(rf"{_NAME}(?<=.\.onnx)", "the plain name of an .onnx file inside the bundle's folder")
_TENSOR = record({"name": text, "dtype": _WORD, "axes": list_of(text, 1, 8)})
_TENSORS = list_of(_TENSOR, 1)
_GRAPH = record(
    {
        "file": _GRAPH_FILE,
        "precision": _WORD,
        "layout": _WORD,
        "opset": whole(1, 1000),
        "inputs": _TENSORS,
        "outputs": _TENSORS,
    },
    {"engine": nullable(_WORD), "weights_in": list_of(file_name), "recipe": nullable(_WORD)},
)

VERSIONED = record({"format_version": whole(0, 2**31 - 1)})
"""`bundle.json` of any version."""
BUNDLE = record(
    {
        "task": text,
        "architecture": text,
        "graphs": list_of(_GRAPH, 1),
        "files": map_of(file_name, _HEX),
        "source": map_of(text, tree),
        "versions": map_of(text, text),
        "conventions": map_of(text, tree),
        "verification": map_of(text, tree),
    },
    # damaged times keep nobody but provider "auto" from the bundle, see `timings`; providers may be a later version's
    {"calibration": tree, "providers": list_of(_WORD)},
)
# parts of `BUNDLE`'s free sections that other code reads
CONVENTIONS = record({}, {"uses_langs": flag, "langs": text, "cls_index": nullable(one_of(*CLS_INDEX_CONVENTIONS))})
_REPORTS = map_of(text, record({}, {"recipe": _WORD}))
VERIFICATION = record({"status": one_of(*STATUSES)}, {"quantized": _REPORTS, "optimized": _REPORTS})

RECORD = record(
    {
        "cpu": text,
        "gpu": nullable(text),
        "threads": whole(1, 2**31 - 1),
        "versions": map_of(text, text),
        "date": text,
        "timings": list_of(
            record({"graph": text, "digest": text, "provider": text, "milliseconds": map_of(text, positive)})
        ),
        "left_out": list_of(record({"graph": nullable(text), "provider": text, "reason": text})),
    }
)
"""An entry of the section `calibration`."""

HASHES = map_of(_HEX, _HEX)
"""The hashes of files that were read before, see `hashes`."""

_SHAPE = list_of(whole(0, 2**31 - 1), 0, 8)
STAMP = record(
    {
        "flavor": _WORD,
        "version": text,
        "targets": list_of(_WORD, 1),
        "precision": _WORD,
        "profiles": list_of(record({"name": text, "shapes": map_of(text, list_of(_SHAPE, 3, 3))}), 1),
        "graph": _GRAPH_FILE,
        "sources": map_of(file_name, _HEX),
        "plan": matching(rf"{ENGINES_FOLDER}/{_NAME}", f"a plain file name inside the folder {ENGINES_FOLDER}"),
        "plan_sha256": _HEX,
        "inputs": _TENSORS,
        "outputs": _TENSORS,
    },
    {"options": list_of(text), "lean_runtime": nullable(one_of("included", "excluded"))},
)
"""The stamp of an engine."""


def check_inside(folder: Path, names: Iterable[str]) -> None:
    """Whether files that are there, and the folder of engines, lie in a bundle, behind no link that leads out of it.

    Raises:
        BundleError: one does not, or is no regular file.
    """
    root = os.path.realpath(folder)
    for name in names:
        path = folder / name
        if not os.path.lexists(path):
            continue
        real = os.path.realpath(path)
        if not Path(real).is_relative_to(root):
            raise BundleError(
                f"File '{name}' in path '{folder}' is a link to '{real}', which is not in the folder; copy the bundle "
                "with its links followed (cp -rL)."
            )
        if name != ENGINES_FOLDER and os.path.exists(path):
            check_regular(path)


def check_listed(folder: Path, files: Mapping[str, str]) -> None:
    """Whether all files that would be read have their hash in `bundle.json`.

    Raises:
        BundleError: one has not.
    """
    for name in READ_FILES:
        if name not in files and os.path.lexists(folder / name):
            raise BundleError(
                f"File '{name}' in path '{folder}' has no hash in {BUNDLE_FILE}, so nobody knows whether it is the "
                "bundle's; remove it, or export again."
            )
