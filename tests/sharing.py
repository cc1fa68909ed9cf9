"""Folders that are made once for all tests and workers of a run: exporting a tiny checkpoint takes seconds.

Nothing here needs more than pytest where `XLM_TEST_BUNDLES` names a folder with bundles.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATIC = "text-generation-static"
"""The bundle of `make_bundles` whose graph for CUDA has a static cache."""


def make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Let the first who asks make `folder`, while others wait for it.

    Args:
        folder: where it will be; appears whole or not at all.
        make: writes the folder whose path it gets, which does not exist yet.

    Returns:
        `folder`. Tests must not change it.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_file(folder)):
        if not folder.is_dir():
            unfinished = folder.with_name(f".{folder.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(folder)
    return folder


def is_being_made(folder: Path) -> bool:
    """Whether another worker makes the folder at this moment."""
    from filelock import FileLock, Timeout

    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock_file(folder), timeout=0):
            return False
    except Timeout:
        return True


def lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def folder_name(architecture: str, **options: Any) -> str:
    """A name for what is made of a model class with these options: equal options give equal names."""
    text = json.dumps(options, sort_keys=True, default=str)
    return f"{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
