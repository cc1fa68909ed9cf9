"""Two that write to one bundle at the same time lose nothing of each other.

They are threads here, which exclude each other as processes do: `tests/runtime/bundle/test_locks.py` has those.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_export import optimize, quantize, verify
from xlm_export.bundle_writer import set_default
from xlm_runtime import autotune
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.locks import held
from xlm_runtime.bundle.schema import LOCK_FILE
from xlm_runtime.bundle.timings import LeftOut, Record, Timing
from xlm_runtime.errors import BundleError
from xlm_runtime.machine import Machine

TASK = "text-classification"


def keep_times(folder: Path, checkpoint: Path) -> None:
    bundle = Bundle.load(folder)
    timing = Timing("model.onnx", bundle.digest(bundle.graphs[0]), "cpu", {"1x16": 1.0})
    machine = Machine("a", None, 1, {})
    autotune.keep(folder, Record(machine, date.today().isoformat(), (timing,), (LeftOut(None, "cuda", "none"),)))


WRITERS: dict[str, Callable[[Path, Path], Any]] = {
    "quantize": lambda folder, checkpoint: quantize(folder, "int8-dynamic"),
    "optimize": lambda folder, checkpoint: optimize(folder, "onnxruntime-cpu"),
    "autotune": keep_times,
    "verify": verify,
    "default": lambda folder, checkpoint: set_default(folder, "model.onnx"),
}


def what_is_there(folder: Path) -> set[str]:
    bundle = Bundle.load(folder)
    bundle.check_files()
    assert not list(folder.glob(".*")), "no lock and no draft is left"
    made = {name for name in ("quantized", "optimized") if bundle.verification.get(name)}
    return {graph.title for graph in bundle.graphs} | made | ({"times"} if bundle.timings else set())


@pytest.mark.slow(seconds=8)
@pytest.mark.parametrize(
    ("first", "second"),
    [("quantize", "optimize"), ("verify", "quantize"), ("autotune", "optimize"), ("default", "autotune")],
)
def test_nothing_is_lost(
    first: str, second: str, bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first has read the table and not yet written it when the second comes to write."""
    checkpoint = bundles(TASK).parent / "checkpoints" / TASK
    alone = []
    for name in (first, second):
        folder = Path(shutil.copytree(bundles(TASK), tmp_path / name))
        WRITERS[name](folder, checkpoint)
        alone.append(what_is_there(folder))
    folder = Path(shutil.copytree(bundles(TASK), tmp_path / "both"))
    begun, go_on, failures = threading.Event(), threading.Event(), []
    write = Bundle.write

    def pause(self: Bundle) -> None:
        if threading.current_thread().name == "first" and self.folder == folder:
            begun.set()
            assert go_on.wait(60)
        write(self)

    def run(name: str) -> None:
        try:
            WRITERS[name](folder, checkpoint)
        except BaseException as error:
            failures.append(error)
            begun.set()

    monkeypatch.setattr(Bundle, "write", pause)
    threads = [
        threading.Thread(target=run, args=(name,), name=place) for name, place in ((first, "first"), (second, ""))
    ]
    threads[0].start()
    assert begun.wait(60)
    with held(folder / LOCK_FILE) as free:
        assert not free, "the first is about to write"
    Bundle.load(folder)  # readers wait for nobody
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert what_is_there(folder) == alone[0] | alone[1]


def test_a_verification_that_came_too_late(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph was replaced while it was verified: the outcome is not noted on the new one."""
    folder = Path(shutil.copytree(bundles(TASK), tmp_path / "bundle"))
    update = Bundle.update

    def replaced(folder: Path, change: Callable[[Bundle], Bundle]) -> Bundle:
        now = Bundle.load(folder)
        replace(now, files=now.files | {"model.onnx": "0" * 64}).write()
        return update(folder, change)

    monkeypatch.setattr(Bundle, "update", staticmethod(replaced))
    with pytest.raises(BundleError, match=r"'model.onnx' .* was replaced while it was verified; try again"):
        verify(folder, bundles(TASK).parent / "checkpoints" / TASK)
