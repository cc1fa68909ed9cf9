"""The benchmark of files by workers of Ray, in the way that takes no Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ray_data import Way, run, table, write_texts
from tests.conftest import Bundles

TASK = "text-classification"


def test_a_way_is_timed_and_its_output_compared(bundles: Bundles, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_texts(source, bundles(TASK), 40)
    way = Way("one process", ("--threads", "1"))
    found = run(way, TASK, bundles(TASK), source, output, 40)
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == list(range(40))
    assert 0 < found.first <= found.seconds
    assert found.megabytes > 10
    assert found.processes == 1
    rows = table([found, replace(found, way="other", seconds=found.seconds / 2, digest="")], 40).splitlines()
    assert rows[2].endswith("| 1 | equal |")
    assert "| 2.00 |" in rows[3]
    assert rows[3].endswith("DIFFERENT |")
    with pytest.raises(RuntimeError, match="is there already"):
        run(way, TASK, bundles(TASK), source, output, 40)
