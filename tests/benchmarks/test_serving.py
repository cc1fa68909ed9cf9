"""The load test's clients, on a server that computes nothing, and its report."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.process import ROOT
from tests.benchmarks.http_stub import Stub, stub

TEXTS = ["a", "bb", "ccc", "dddd", "äöü"]


def load(server: Stub, **job: Any) -> Any:
    """What the clients' process prints."""
    host, port = server.server_address[:2]
    whole = {
        "host": host,
        "port": port,
        "path": "/",
        "bodies": [{"inputs": text} for text in TEXTS],
        "limit": 20,
        **job,
    }
    command = [sys.executable, "-m", "benchmarks.serving_load"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(whole), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def labels(found: Any) -> dict[str, str]:
    return {number: json.loads(answer)[0][0]["label"] for number, answer in found["answers"].items()}


@pytest.mark.parametrize("clients", [1, 8])
def test_a_closed_loop_asks_with_every_client_and_counts_what_comes_after_the_first(clients: int) -> None:
    with stub(together=clients) as server:
        found = load(server, clients=clients, seconds=0.05)
    assert labels(found) == {"0": "1", "1": "2", "2": "3", "3": "4", "4": "3"}
    assert list(found["statuses"]) == ["200"]
    assert 2 * clients <= len(found["latencies"]) <= found["statuses"]["200"] - clients
    assert found["unanswered"] == 0
    assert found["cpu_ms"] > 0


def test_an_open_loop_waits_for_no_answer() -> None:
    with stub(together=40, refused="dddd") as server:  # more than the connections that it begins with
        found = load(server, rate=400, seed=0, seconds=0.5)
    asked = sum(found["statuses"].values())
    assert asked >= 40
    assert set(found["statuses"]) == {"200", "429"}
    assert found["statuses"]["200"] == len(found["latencies"])
    assert labels(found) == {"0": "1", "1": "2", "2": "3", "4": "3"}


def test_what_is_not_answered_in_time_is_counted() -> None:
    with stub(together=1000) as server:
        found = load(server, rate=100, seed=0, seconds=0.2, limit=0.5)
    assert found["latencies"] == []
    assert found["unanswered"] > 5
