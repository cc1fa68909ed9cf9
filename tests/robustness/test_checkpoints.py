"""Damaged checkpoints: some in every run, many behind `-m campaign`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.checkpoints import campaign

FEW, MANY = 40, 3000


def test_damaged_checkpoints_load_as_in_transformers_or_are_refused(tmp_path: Path) -> None:
    outcomes = campaign(FEW, tmp_path)
    assert {"refused", "as before", "as transformers"} <= outcomes.keys()


@pytest.mark.campaign
@pytest.mark.slow(seconds=600)
def test_many_damaged_checkpoints(tmp_path: Path) -> None:
    outcomes = campaign(MANY, tmp_path, first=FEW)
    print(f"{MANY} damaged checkpoints: {dict(outcomes)}")
    assert outcomes["refused"] > MANY // 3
