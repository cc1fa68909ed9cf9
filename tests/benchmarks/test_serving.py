"""The load test's clients, on a server that computes nothing, and its report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.process import ROOT
from benchmarks.serving_report import ALONE, BATCHED, markdown, summarize
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


def measured(kind: str, way: str, clients: int, rate: float, p50: float, **more: Any) -> dict[str, Any]:
    figures = {"requests_per_second": rate, "p50": p50, "p95": 2 * p50, "p99": None}
    return {"kind": kind, "model": "small", "way": way, "clients": clients, **figures, **more}


def test_a_report_has_medians_of_the_rounds_and_what_they_reach() -> None:
    machine = {"cpu": "C", "cpus": 2, "memory_gb": 8, "system": "S", "python": "3", "versions": {"numpy": "2"}}
    head = {"kind": "run", "command": "c", "machine": machine, "threads": 2, "seconds": 3, "rounds": 3}
    counts = {"statuses": {"200": 5, "429": 1}, "unanswered": 0, "compared": 5, "wrong": 1}
    records = [
        {**head, "lengths": [6, 40], "gains": {"small": 2.0}},
        *(measured("closed", BATCHED, 32, rate, 9.0, **counts) for rate in (100.0, 300.0, 210.0)),
        measured("closed", ALONE, 32, 100.0, 20.0, **counts),
        measured("bare", BATCHED, 1, 90.0, 4.5),
        measured("bare", ALONE, 1, 100.0, 3.0),
        {"kind": "check", "model": "small", "way": BATCHED, "texts": 5, "same_label": 1.0, "max_difference": 0.001},
        {"kind": "missing", "what": "small, transformers", "reason": "it did not start"},
    ]
    found = summarize(records)
    reached = [(target["found"], target["met"]) for target in found["targets"]]
    assert reached == [(2.1, True), (1.5, False)]
    text = markdown(found, "report")
    assert "| small | 32 | batched | 210 | 9.00 | 18.0 | – | 429: 3 | – |" in text
    assert "| small | batched | 5 | 100.0% | 1.0e-03 | 15 | 3 |" in text
    assert "- small, transformers: it did not start" in text
    with pytest.raises(ValueError, match="no measurement"):
        summarize(records[1:])


@pytest.mark.whole
@pytest.mark.slow(seconds=40)
def test_the_whole_load_test_on_a_small_model(tmp_path: Path) -> None:
    options = ("--quick", "--models", "language-id", "--work", tmp_path / "work", "--output", tmp_path / "report")
    command = [sys.executable, "-m", "benchmarks", "serving", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["missing"] == []
    assert [(row["clients"], row["way"]) for row in found["bare"]] == [
        (n, w) for n in (1, 32) for w in (ALONE, BATCHED)
    ]
    assert all(row["wrong"] == row["unanswered"] == 0 for row in found["closed"])
    assert {row["same_label"] for row in found["check"][:2]} == {1.0}
