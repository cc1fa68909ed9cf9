"""Tiny checkpoints and bundles, made once for all tests that read them, and the order of tests.

`XLM_TEST_BUNDLES` names a folder with bundles that `tests/make_bundles.py` wrote; without it they are exported on
first use, which takes torch. Nothing here needs more than pytest at first, so that `tests/runtime` also runs where only
numpy and an engine are installed.

With several workers (`-n`) each keeps to one CPU, or the threads of their engines would wait for each other.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sharing import folder_name, is_being_made, make_once

Bundles = Callable[[str], Path]
Checkpoints = Callable[..., Path]
Exported = Callable[..., Path]
HalfBundles = Callable[[str, str], Path]
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")


def pytest_configure() -> None:
    os.environ["XLM_ONNX_REHASH"] = "1"  # nothing of a run is remembered in the user's cache folder
    if WORKER and hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[int(WORKER.removeprefix("gw")) % len(cpus)]})


@pytest.hookimpl(trylast=True)  # of the tests that were chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each worker its share of the slow tests, the longest first, and then of the others.

    Workers begin with equal parts of the list, and who is done takes from the end of another's part. So long tests are
    over before short ones even out the work. Without workers slow tests come last.
    """

    def seconds(item: pytest.Item) -> float:
        mark = item.get_closest_marker("slow")
        return 0.0 if mark is None else float(mark.kwargs.get("seconds", 5))

    fast, slow = ([item for item in items if bool(seconds(item)) == wanted] for wanted in (False, True))
    slow.sort(key=seconds, reverse=True)
    if not WORKER:
        items[:] = [*fast, *slow]
        return
    workers, count = int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), len(items)
    items.clear()
    for worker in range(workers):
        mine = slow[worker::workers]
        size = count * (worker + 1) // workers - count * worker // workers
        kept = max(0, size - len(mine))
        items += [*mine, *fast[:kept]]
        del fast[:kept]
    items += fast


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of a run share, for `make_once`."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if WORKER else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def bundles(shared_folder: Path) -> Bundles:
    """A function from a bundle's name, which is its task, to its folder. Tests must not change the folder."""
    given = os.environ.get("XLM_TEST_BUNDLES")
    if given:
        return lambda name: Path(given) / name
    folder = shared_folder / "bundles"

    def make(name: str) -> Path:
        if (folder / name).is_dir():
            return folder / name
        from tests.make_bundles import BUNDLES, make_bundle

        while is_being_made(folder / name):  # by another worker: meanwhile make one that will be asked for, too
            others = [other for other in BUNDLES if not (folder / other).is_dir() and not is_being_made(folder / other)]
            if not others:
                break
            make_bundle(folder, others[0])
        return make_bundle(folder, name)

    return make


@pytest.fixture(scope="session")
def checkpoints(shared_folder: Path) -> Checkpoints:
    """`make_checkpoint(architecture, seed=0, **config_options)`, once. Tests must not change the folder."""

    def make(architecture: str, seed: int = 0, **config_options: Any) -> Path:
        from tests.make_checkpoint import make_checkpoint

        folder = shared_folder / "checkpoints" / folder_name(architecture, seed=seed, **config_options)
        return make_once(folder, lambda path: make_checkpoint(path, architecture, seed, **config_options))

    return make


@pytest.fixture(scope="session")
def exported(shared_folder: Path) -> Exported:
    """A function that exports a checkpoint with options of `xlm_export.export`, once, and returns the bundle's folder.

    Tests must not change the folder.
    """

    def make(checkpoint: Path, **options: Any) -> Path:
        from xlm_export import export

        folder = shared_folder / "exported" / folder_name(checkpoint.name, **options)
        return make_once(folder, lambda path: export(checkpoint, path, **options))

    return make


@pytest.fixture(scope="session")
def half_bundles(bundles: Bundles, exported: Exported) -> HalfBundles:
    """A function from a tiny bundle's name and "fp16" or "bf16" to such a bundle of the same checkpoint.

    It is verified, if bf16 can be on this machine. Tests must not change the folder.
    """

    def make(name: str, precision: str) -> Path:
        from tests.make_bundles import bundle_task

        checkpoint = bundles(name).parent / "checkpoints" / name
        verify = precision == "fp16" or importlib.util.find_spec("openvino") is not None
        return exported(checkpoint, task=bundle_task(name), precision=precision, verify=verify)

    return make
