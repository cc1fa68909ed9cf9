"""The clients of the batcher's benchmark, on a pipeline that computes nothing."""

from __future__ import annotations

from concurrent.futures import Future

from benchmarks.batcher import WAYS, measure


class Pipe:
    def __init__(self) -> None:
        self.asked: set[str] = set()

    def __call__(self, text: str) -> str:
        self.asked.add(text)
        return text

    def submit(self, text: str) -> Future[str]:
        future: Future[str] = Future()
        future.set_result(self(text))
        return future


def test_every_way_is_measured_with_every_number_of_clients() -> None:
    pipe, texts = Pipe(), ["a", "b", "c"]
    rows = measure(pipe, texts, [1, 2], seconds=0.02, rounds=2)
    assert [(row["clients"], row["way"]) for row in rows] == [(count, way) for count in (1, 2) for way in WAYS]
    assert all(row["requests_per_second"] > 0 and 0 < row["p50"] <= row["p95"] <= row["p99"] for row in rows)
    assert pipe.asked == set(texts)
