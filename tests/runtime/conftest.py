"""Tiny bundles for the runtime's tests, which need no more than numpy, an engine and pytest.

`XLM_TEST_BUNDLES` names a folder with bundles that `tests/make_bundles.py` wrote; without it they are exported on
first use, which takes torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Bundles = Callable[[str], Path]


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """A function from a bundle's name, which is its task, to its folder. Tests must not change the folder."""
    given = os.environ.get("XLM_TEST_BUNDLES")
    if given:
        return lambda name: Path(given) / name
    folder = tmp_path_factory.mktemp("bundles")

    def make(name: str) -> Path:
        from tests.make_bundles import make_bundle

        return folder / name if (folder / name).is_dir() else make_bundle(folder, name)

    return make


@pytest.fixture
def changed_bundle(bundles: Bundles, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies a bundle, with other options in `config.json` or other entries in `bundle.json`."""

    def change(name: str, config: dict[str, Any] | None = None, entries: dict[str, Any] | None = None) -> Path:
        folder = tmp_path / f"changed-{name}"
        shutil.copytree(bundles(name), folder)
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        text = json.dumps(values | (config or {}))
        (folder / "config.json").write_text(text, encoding="utf-8")
        contents = json.loads((folder / "bundle.json").read_text(encoding="utf-8")) | (entries or {})
        contents["files"]["config.json"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / "bundle.json").write_text(json.dumps(contents), encoding="utf-8")
        return folder

    return change
