"""Tiny bundles, exported once for all tests that read them.

`XLM_TEST_BUNDLES` names a folder with bundles that `tests/make_bundles.py` wrote; without it they are exported on
first use, which takes torch. Nothing here needs more than pytest, so that `tests/runtime` also runs where only numpy
and an engine are installed.

With several workers (`-n`) each keeps to one CPU, or the threads of their engines would wait for each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

Bundles = Callable[[str], Path]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def pytest_configure() -> None:
    if WORKER and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[int(WORKER.removeprefix("gw")) % len(cpus)]})


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """A function from a bundle's name, which is its task, to its folder. Tests must not change the folder."""
    given = os.environ.get("XLM_TEST_BUNDLES")
    if given:
        return lambda name: Path(given) / name
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if WORKER else base) / "bundles"  # all workers share one
    folder.mkdir(exist_ok=True)

    def make(name: str) -> Path:
        from filelock import FileLock

        from tests.make_bundles import make_bundle

        with FileLock(folder / f"{name.removesuffix('-packed')}.lock"):
            return folder / name if (folder / name).is_dir() else make_bundle(folder, name)

    return make
