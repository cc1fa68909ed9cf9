"""Changed copies of the tiny bundles."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles


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
