"""Tiny bundles, exported once for all tests that read them.

`XLM_TEST_BUNDLES` names a folder with bundles that `tests/make_bundles.py` wrote; without it they are exported on
first use, which takes torch. Nothing here needs more than pytest, so that `tests/runtime` also runs where only numpy
and an engine are installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

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
