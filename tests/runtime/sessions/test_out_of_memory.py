"""OpenVINO where memory runs out: an error, and never the answer of the call before."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from xlm_runtime.sessions.openvino_session import infer

openvino = pytest.importorskip("openvino", reason="the openvino extra is not installed")


class FakeRequest:
    """OpenVINO's request with an output; `compute` writes into it, or does not."""

    def __init__(self, output: np.ndarray, compute: Callable[[np.ndarray], Any]) -> None:
        self.data = output
        self._compute = compute

    def get_tensor(self, name: str) -> FakeRequest:
        return self

    def infer(self, feed: Any, share_inputs: bool) -> None:
        self._compute(self.data)


FEED = {"input_ids": np.ones((2, 3), np.int64)}


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 8), (7,), (1, 1), (4, 2, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_answers_are_taken_as_they_are(dtype: Any, shape: tuple[int, ...]) -> None:
    """NaN, too, as computations give it."""
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if dtype == np.float32 and values.size:
        values.reshape(-1)[0] = np.nan
    feed = FEED if values.size else {"input_ids": np.ones((2, 0), np.int64)}
    found = infer(FakeRequest(np.zeros(shape, dtype), lambda data: np.copyto(data, values)), feed, ["logits"])
    np.testing.assert_array_equal(found["logits"], values)


@pytest.mark.parametrize("shape", [(2, 3), (2, 5, 8), (7,), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_the_answer_of_the_call_before_is_refused(dtype: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(RuntimeError, match="the output logits was not computed, as happens when memory runs out"):
        infer(FakeRequest(np.ones(shape, dtype), lambda data: None), FEED, ["logits"])


def test_half_of_an_answer_is_refused() -> None:
    for row in range(4):

        def compute(data: np.ndarray, row: int = row) -> None:
            data[np.arange(4) != row] = 1

        with pytest.raises(RuntimeError, match="was not computed"):
            infer(FakeRequest(np.ones((4, 6), np.float32), compute), FEED, ["logits"])


def test_no_rows_are_no_answer() -> None:
    with pytest.raises(RuntimeError, match="was not computed"):
        infer(FakeRequest(np.ones((0, 6), np.float32), lambda data: None), FEED, ["logits"])


LIMITED = """
import json, resource, sys
from pathlib import Path
from xlm_runtime import pipeline
from xlm_runtime.errors import EngineError

model = pipeline("text-classification", sys.argv[1], "openvino", threads=2, max_tokens=1 << 20)
short, long = ["a %d" % i for i in range(64)], ["the old town %d " % i * 10 for i in range(64)]
key = lambda answers: [answer["label"] for answer in answers]
expected = key(model(long[:1]))
model(short)
pages = int(Path("/proc/self/statm").read_text().split()[0])
found = []
for extra in (0, 1, 2, 4, 8, 16, 32, 64, 128):
    limit = pages * 4096 + (extra << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    try:
        found.append([round(answer["score"], 3) for answer in model(long)])
    except (EngineError, MemoryError) as error:
        found.append(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(json.dumps({"found": found, "expected": [round(answer["score"], 3) for answer in model(long)]}))
"""


@pytest.mark.slow(seconds=8)
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_that_runs_out_is_an_error(bundles: Bundles) -> None:
    """64 short texts, and then 64 long ones with a little more memory than the process has."""
    command = [sys.executable, "-c", LIMITED, str(bundles("text-classification"))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:  # the C library ended the process, which no error can stand for
        assert "cannot allocate memory for thread-local data" in done.stderr
        return
    outcome = json.loads(done.stdout)
    assert all(found in ("EngineError", "MemoryError", outcome["expected"]) for found in outcome["found"])
    assert outcome["found"][-1] == outcome["expected"]
