"""The progress bar of `xlm-export`: never beyond its end, and full when a command is done."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.export.conftest import Traced
from xlm_export.cli import progress
from xlm_export.cli.main import main
from xlm_runtime.bundle import Bundle


class FakeBar:
    """Stands in for tqdm's; keeps (steps done, steps in all, description) at each step."""

    last: FakeBar

    def __init__(self, total: int, **options: Any) -> None:
        self.n, self.total = 0, total
        self.seen: list[tuple[int, int, str]] = []
        FakeBar.last = self

    def update(self, steps: int) -> None:
        self.n += steps

    def set_description_str(self, description: str) -> None:
        self.seen.append((self.n, self.total, description))

    def close(self) -> None:
        self.seen.append((self.n, self.total, "closed"))


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(progress, "tqdm", FakeBar)
    return Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))


LIMIT = ["--max-divergence"]
CASES = {
    "int8-dynamic": ["--recipe", "int8-dynamic"],
    "static with percentiles": ["--recipe", "int8-static", "--percentile", "99.9"],
    "each part alone": ["--recipe", "int8-dynamic", "--per-layer"],
    "int4 with a part kept": ["--recipe", "int4-weights", "--per-layer", "--keep", "head"],
}


@pytest.mark.parametrize("case", CASES)
def test_quantize(case: str, bundle: Path) -> None:
    assert main(["quantize", str(bundle), *CASES[case]]) == 0
    seen = FakeBar.last.seen
    assert [done for done, _, _ in seen] == [*range(len(seen))], "one step after the other"
    totals = [total for _, total, _ in seen]
    assert all(done < total for done, total, name in seen if name != "closed")
    assert seen[-1] == (totals[-1], totals[-1], "closed")
    # the number is known once the first graph is made
    made = next(i for i, (_, _, name) in enumerate(seen) if name == "quantise")
    assert len(set(totals[made:])) == 1


def test_a_search_that_ends_early(bundle: Path) -> None:
    """Half of the parts may be left in fp32, and the first of them does: the bar has no steps for the others."""
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic", "--per-layer"]) == 0
    everything = Bundle.load(bundle).verification["quantized"]["model.int8-dynamic.onnx"]["divergence"]
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic", "--force", *LIMIT, f"{everything * 0.99}"]) == 0
    seen = FakeBar.last.seen
    names = [name for _, _, name in seen]
    assert sum(name.startswith("quantise without") for name in names) < 3
    assert all(done < total for done, total, name in seen if name != "closed")
    assert seen[-1][0] == seen[-1][1] == len(seen) - 1


def test_an_error_leaves_the_bar_as_it_is(bundle: Path) -> None:
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic", *LIMIT, "1e-12"]) == 1
    done, total, name = FakeBar.last.seen[-1]
    assert name == "closed"
    assert done < total


def assert_full() -> None:
    """One step after the other, never beyond the end, and full when the command is done."""
    seen = FakeBar.last.seen
    assert [done for done, _, _ in seen] == [*range(len(seen))]
    assert all(done < total for done, total, name in seen if name != "closed")
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("name", ["text-classification", "text-classification-packed", "text-generation"])
def test_verify(name: str, bundle: Path, bundles: Bundles, tmp_path: Path) -> None:
    folder = shutil.copytree(bundles(name), tmp_path / "copy")
    checkpoint = bundles(name).parent / "checkpoints" / name.removesuffix("-packed")
    assert main(["verify", str(folder), "--checkpoint", str(checkpoint)]) == 0
    assert_full()
    assert "load the checkpoint" in FakeBar.last.seen[0]


def test_export(bundle: Path, traced: Traced, tmp_path: Path) -> None:
    checkpoint = traced("text-classification")
    for more in ([], ["--no-verify", "--force"]):
        assert main(["export", str(checkpoint), str(tmp_path / "new"), *more]) == 0
        assert_full()


def test_optimize(bundle: Path) -> None:
    assert main(["optimize", str(bundle), "--target", "onnxruntime-cpu"]) == 0
    assert_full()
