"""Files that appear whole or not at all: written beside their place under a hidden name, and renamed when done."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from xlm_runtime.bundle.locks import held, marks_life


@contextmanager
def drafts(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Hidden names beside `paths` to write to. When the block ends they take the places of `paths`.

    On any exception, an interrupt included, the drafts are removed and none of `paths` changes. Drafts that a killed
    process left are removed by the next one that writes the same path.

    Returns:
        A draft for each path.
    """
    made = tuple(path.with_name(f".{path.name}.{os.urandom(4).hex()}") for path in paths)
    with ExitStack() as locks:
        try:
            for draft, path in zip(made, paths, strict=True):
                _sweep(path)
                locks.enter_context(marks_life(draft))
            yield made
            for draft, path in zip(made, paths, strict=True):
                draft.replace(path)
        finally:
            for draft in made:
                draft.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Remove drafts of a path whose process is gone."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}")
    for name in filter(left.fullmatch, os.listdir(path.parent)):
        with suppress(OSError), held(path.parent / name) as dead:
            if dead:
                (path.parent / name).unlink(missing_ok=True)


def write_bytes(path: Path, *parts: bytes) -> None:
    """Write the parts, one after the other."""
    with drafts(path) as (draft,), draft.open("wb") as file:
        file.writelines(parts)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, values: Any, indent: int = 1) -> None:
    """Write values as JSON with a line's end."""
    write_text(path, json_text(values, indent))


def json_text(values: Any, indent: int = 1) -> str:
    """Values as `write_json` writes them."""
    return json.dumps(values, indent=indent, ensure_ascii=False) + "\n"
