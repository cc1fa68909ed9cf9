"""What starting costs: contenders are started, asked and weighed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.startup import OURS, Contender, Running, read_memory
from tests.conftest import Bundles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="where the system tells proportional set sizes")


def test_a_contender_answers_and_its_memory_is_read(bundles: Bundles, tmp_path: Path) -> None:
    arguments = [str(bundles("text-classification")), "cpu", str(tmp_path / "cache")]
    contender = Contender("ours", OURS, arguments)
    with Running(contender) as process:
        memory = process.memory()
    assert 5 < memory.own < memory.proportional < 1000
    assert any((tmp_path / "cache").iterdir())
    contender.seconds, contender.own, contender.proportional = [3.0, 1.0, 2.0], [30.0], [60.0]
    contender.first, contender.together = 4.0, 75.0
    figures = {"first_start_s": 4.0, "start_s": 2.0, "own_mb": 30.0, "proportional_mb": 60.0, "four_by_one": 1.25}
    assert contender.row() == {"contender": "ours", **figures}


def test_one_that_fails_says_why() -> None:
    with pytest.raises(SystemExit, match=r"ours failed.*No such thing"):
        Running(Contender("ours", "raise SystemExit('No such thing')", []))


def test_a_process_that_is_gone() -> None:
    with pytest.raises(OSError, match=r"No such (file|process)"):
        read_memory(2**22 + 1)
