"""Bundles whose graphs read no `langs`, in optimum's classes under transformers' pipelines (`make test-whole`)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Bundles, Exported
from tests.runtime.answers import same

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "optimum" / "bin" / "python"

pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(not PYTHON.is_file(), reason="`make optimum` makes optimum's environment"),
]


@pytest.mark.parametrize("task", ["text-classification", "feature-extraction", "token-classification", "fill-mask"])
def test_optimum_answers_as_torch(bundles: Bundles, exported: Exported, task: str) -> None:
    checkpoint = bundles(task).parent / "checkpoints" / task
    folder = exported(checkpoint, langs="none", full_logits=task == "fill-mask")
    command = [str(PYTHON), "-m", "tests.peers.optimum_answers", task, str(checkpoint), str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    theirs, ours = json.loads(done.stdout.splitlines()[-1])
    same(ours, theirs)
