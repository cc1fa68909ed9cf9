"""Graphs that are wrong fail their verification, and the bundle says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Bundles, Checkpoints
from tests.export.conftest import Traced
from tests.make_bundles import BUNDLES
from xlm_export import VerificationError, export, verify
from xlm_export.verification.report import TOLERANCES, OutputError
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.tasks import TASKS


def test_a_wrong_graph_fails_and_is_marked(bundles: Bundles, checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    architecture, options = BUNDLES["text-classification"]
    report = verify(folder, checkpoints(architecture, seed=100, **options))
    assert report.status == "failed"
    assert any("relative error" in failure for failure in report.failures)
    with pytest.raises(BundleError, match="failed its verification"):
        Bundle.load(folder)
    assert (
        verify(folder, bundles("text-classification").parent / "checkpoints" / "text-classification").status == "passed"
    )
    assert Bundle.load(folder).verification["status"] == "passed"
    with pytest.raises(InputError, match="gives another graph"):
        verify(folder, checkpoints(architecture, n_langs=1, **options))


def test_an_export_over_the_limit_raises(traced: Traced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = traced("feature-extraction")
    monkeypatch.setattr(OutputError, "add", lambda self, got, want: setattr(self, "max_absolute", float("nan")))
    with pytest.raises(VerificationError, match="is marked as failed"):
        export(checkpoint, tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["verification"]["status"] == "failed"


def test_the_table_of_tasks_names_each_precisions_limit() -> None:
    assert set(TOLERANCES) == {"fp32", "fp16", "bf16"}
    assert len({(task.name, task.head) for task in TASKS}) == len(TASKS)
