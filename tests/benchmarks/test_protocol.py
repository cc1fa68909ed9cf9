"""Statistics, the choice of a way, the order of rounds, and what is recorded, with contenders that only pretend."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.process import ContenderError
from benchmarks.protocol import (
    RESERVE_MB,
    Contender,
    Recorder,
    Settings,
    Spec,
    _check_memory,
    check,
    compare,
    measure,
    rotated,
    start_all,
    summary,
)
from benchmarks.workloads import AS_IT_COMES, ONE_BY_ONE, PADDED_WAYS, SORTED, Row, Workload, fixed

SETTINGS = Settings(threads=1, cpus=[], rounds=4, choice=2, starts=1, check_rows=4, timeout=1)


class FakeWorker:
    """Answers as `benchmarks.worker` does; each way costs what `costs` says, and what it has not fails."""

    alive = True

    def __init__(self, name: str, costs: dict[str, float], calls: list[tuple[str, str]], logits: Any = None) -> None:
        self.name, self.costs, self.calls, self.logits = name, costs, calls, logits

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self.calls.append((self.name, message["way"]))
        if message["way"] not in self.costs:
            raise ContenderError("not this way")
        return {"seconds": [self.costs[message["way"]]] * len(message["groups"]), "outputs": self.logits}


def contender(
    name: str, costs: dict[str, float], calls: list[tuple[str, str]], logits: Any = None, **options: Any
) -> Contender:
    made = Contender(Spec(name, "peer", "fake", {}, PADDED_WAYS, **options), SETTINGS, Path("unused"))
    made.worker = FakeWorker(name, costs, calls, logits)  # type: ignore[assignment]
    return made


def run(contenders: list[Contender], workload: Workload) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    measure(workload, contenders, SETTINGS, lambda rng: workload.draw(rng, 100, 1), records.append, lambda step: None)
    return records


def test_each_contender_gets_its_fastest_way() -> None:
    costs = {AS_IT_COMES: 3.0, ONE_BY_ONE: 1.0, SORTED: 2.0}
    records = run(
        [contender("a", costs, []), contender("b", {**costs, SORTED: 0.5}, [])], Workload("w", "", fixed(4, 9))
    )
    ways = {(item["contender"], item["way"]) for item in records if item.get("phase") == "round"}
    assert ways == {("a", ONE_BY_ONE), ("b", SORTED)}


def test_rounds_are_interleaved_and_begin_with_another_each_time() -> None:
    calls: list[tuple[str, str]] = []
    names = ["a", "b", "c"]
    costs = {AS_IT_COMES: 1.0}
    workload = Workload("w", "", fixed(1, 9), calls=2)  # one row: one way
    run([contender(name, costs, calls) for name in names], workload)
    measured = [name for name, _ in calls[3 * (1 + SETTINGS.choice) :]]
    assert measured == [name for number in range(SETTINGS.rounds) for name in rotated(names, number) for _ in range(2)]


def test_all_contenders_get_the_same_draws() -> None:
    seen: dict[str, list[Any]] = {"a": [], "b": []}
    contenders = [contender(name, {AS_IT_COMES: 1.0}, []) for name in seen]
    for item in contenders:
        ask = item.worker.ask  # type: ignore[union-attr]
        item.worker.ask = lambda m, n=item.name, ask=ask: (seen[n].append(m["groups"]), ask(m))[1]  # type: ignore[union-attr, method-assign, misc]
    run(contenders, Workload("w", "", fixed(1, 9), calls=3))
    assert seen["a"] == seen["b"]
    assert len({json.dumps(groups) for groups in seen["a"]}) == len(seen["a"])


def test_a_way_that_fails_is_recorded_and_the_others_go_on() -> None:
    records = run([contender("a", {ONE_BY_ONE: 1.0, SORTED: 2.0}, [])], Workload("w", "", fixed(4, 9)))
    failed = [item for item in records if item["kind"] == "failed"]
    assert [(item["way"], item["reason"]) for item in failed] == [(AS_IT_COMES, "not this way")]
    assert sum(item.get("phase") == "round" for item in records) == SETTINGS.rounds


def test_a_contender_without_any_way_takes_no_part() -> None:
    records = run([contender("a", {}, []), contender("b", {AS_IT_COMES: 1.0}, [])], Workload("w", "", fixed(1, 9)))
    assert {item["contender"] for item in records if item.get("phase") == "round"} == {"b"}


def test_skipped_workloads_are_not_asked() -> None:
    calls: list[tuple[str, str]] = []
    run([contender("a", {AS_IT_COMES: 1.0}, calls, skips=("w",))], Workload("w", "", fixed(1, 9)))
    assert calls == []


def test_samples_say_what_was_asked() -> None:
    records = run([contender("a", {AS_IT_COMES: 1.0}, [])], Workload("w", "", lambda rng: [[5], [6]], batch_rows=2))
    sample = next(item for item in records if item.get("phase") == "round")
    assert {key: sample[key] for key in ("rows", "tokens", "seconds", "way")} == {
        "rows": 2, "tokens": 11, "seconds": [1.0, 1.0], "way": AS_IT_COMES,
    }  # fmt: skip
    rounds = [item for item in records if item["kind"] == "round"]
    assert len(rounds) == SETTINGS.rounds
    assert all(item["other_cpus"] >= 0 and item["load"] >= 0 for item in rounds)


@pytest.mark.parametrize("together", [False, True])
def test_contenders_start_in_turn_or_together(together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that cannot start are named, those that can keep their order; with `together` all wait for one another."""
    names = ["a", "broken", "b"]
    barrier = threading.Barrier(len(names) if together else 1, timeout=60)
    asked: list[tuple[str, Any]] = []

    class Started(FakeWorker):
        started = {"import": 0.1, "load": 0.2}  # noqa: RUF012

        def __init__(self, kind: str, options: dict[str, Any], **_: Any) -> None:
            barrier.wait()
            if options["name"] == "broken":
                raise ContenderError("no such engine")
            super().__init__(options["name"], dict.fromkeys(PADDED_WAYS, 1.0), [])

        def ask(self, message: dict[str, Any]) -> dict[str, Any]:
            if message["do"] == "memory":
                return {"rss_mb": 1.0, "peak_mb": 2.0}
            asked.append((self.name, message["groups"]))
            return super().ask(message)

        def close(self) -> None:
            pass

    monkeypatch.setattr("benchmarks.protocol.Worker", Started)
    monkeypatch.setattr("benchmarks.protocol._check_memory", lambda needed: None)
    records: list[dict[str, Any]] = []
    specs = [Spec(name, "peer", "fake", {"name": name}, PADDED_WAYS) for name in names]
    settings = replace(SETTINGS, together=together)
    first, several = Row([1, 7, 1]), [Row([1, 8, 1]), Row([1, 9, 9, 1])]
    found = start_all(specs, settings, tmp_path, first, records.append, several=several if together else ())
    assert [item.name for item in found] == ["a", "b"]
    assert sorted((item["contender"], item["kind"]) for item in records) == [
        ("a", "start"), ("b", "start"), ("broken", "missing"),
    ]  # fmt: skip
    mine = [groups for name, groups in asked if name == "a"]
    assert mine == [[[first.to_json()]], *([[[row.to_json() for row in several]]] if together else [])]


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=300))
def test_summary_against_sorting(values: list[float]) -> None:
    found = summary(values)
    ordered = sorted(values)
    middle = len(values) // 2
    median = ordered[middle] if len(values) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    assert found["n"] == len(values)
    assert found["median"] == pytest.approx(median)
    assert (found["min"], found["max"]) == (ordered[0], ordered[-1])
    for name, share, least in (("p25", 0.25, 2), ("p75", 0.75, 2), ("p95", 0.95, 20), ("p99", 0.99, 100)):
        if len(values) < least:
            assert found[name] is None
        else:  # linear between the two values around the place
            place = share * (len(values) - 1)
            low = int(place)
            high = min(low + 1, len(values) - 1)
            assert found[name] == pytest.approx(ordered[low] + (place - low) * (ordered[high] - ordered[low]))


@given(st.lists(st.integers(), unique=True, max_size=8), st.integers(0, 20))
def test_rotated_keeps_the_circle(items: list[int], by: int) -> None:
    found = rotated([str(item) for item in items], by)
    assert sorted(found) == sorted(str(item) for item in items)
    if items:
        assert found[0] == str(items[by % len(items)])


def test_compare() -> None:
    expected = np.array([[1.0, 0.0], [0.0, 2.0]])
    same = compare(expected + 5.0, expected)  # softmax does not see a constant
    assert same["agreement"] == 1
    assert same["divergence"] == pytest.approx(0, abs=1e-12)
    assert same["max_difference"] == 5
    found = compare(np.array([[0.0, 1.0], [0.0, 2.0]]), expected)
    assert found["agreement"] == 0.5
    p = np.exp(1) / (1 + np.exp(1))
    assert found["divergence"] == pytest.approx((p - (1 - p)) * 1.0 / 2)
    assert (found["rows"], found["max_logit"], found["max_difference"]) == (2, 2, 1)


def test_check_uses_each_contenders_own_reference() -> None:
    way = {SORTED: 1.0, ONE_BY_ONE: 1.0}
    right = contender("right", way, [], [[1.0, 0.0]])
    other = contender("other", way, [], [[0.0, 3.0]])
    same, strange = (
        contender(name, way, [], [[0.0, 3.0]], reference=ref) for name, ref in (("x", None), ("y", "other"))
    )
    records: list[dict[str, Any]] = []
    check([same, strange], right, {"other": other}, [[]], records.append)
    assert {item["contender"]: item["max_difference"] for item in records} == {"x": 3.0, "y": 0.0}


def test_recorder_writes_at_once_and_never_over_a_report(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "new" / "r.jsonl")
    recorder({"kind": "a", "text": "é"})
    assert json.loads(recorder.path.read_text(encoding="utf-8")) == {"kind": "a", "text": "é"}
    with pytest.raises(FileExistsError):
        Recorder(recorder.path)
    recorder.close()


def test_a_contender_that_does_not_fit_beside_the_others_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    free = SimpleNamespace(available=3000e6)
    monkeypatch.setattr("benchmarks.protocol.psutil.virtual_memory", lambda: free)
    _check_memory(3000 - RESERVE_MB)
    with pytest.raises(ContenderError, match="it took 2000 MB, 3000 MB are free"):
        _check_memory(2000)
