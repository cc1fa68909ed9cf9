"""What concurrent clients get: `python -m benchmarks.batcher BUNDLE [--clients N…] [--seconds S] [--json FILE]`.

Each client is a thread that asks for one text after the other, either by a call of its own or by `submit`. Texts have 6
to 40 tokens, and are the same for both ways, which take turns. A table of requests a second and of latencies in ms.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.texts import TextSampler
from xlm_runtime import pipeline
from xlm_runtime.bundle import Bundle

CLIENTS = (1, 8, 32)
LENGTHS = (6, 40)
WAYS: dict[str, Callable[[Any, str], Any]] = {
    "one call each": lambda pipe, text: pipe(text),
    "batched": lambda pipe, text: pipe.submit(text).result(),
}


def ask_for(seconds: float, clients: int, texts: Sequence[str], ask: Callable[[str], Any]) -> tuple[float, list[float]]:
    """Requests a second, and the seconds that each took, of so many clients that ask all the time."""
    took: list[list[float]] = [[] for _ in range(clients)]
    start = threading.Barrier(clients + 1)
    end = 0.0

    def client(number: int) -> None:
        start.wait()
        turn = number
        while (begun := time.perf_counter()) < end:
            ask(texts[turn % len(texts)])
            took[number].append(time.perf_counter() - begun)
            turn += clients

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    begun = time.perf_counter()
    end = begun + seconds
    start.wait()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begun
    every = [each for times in took for each in times]
    return len(every) / elapsed, every


def measure(
    pipe: Any, texts: Sequence[str], clients: Sequence[int], seconds: float, rounds: int
) -> list[dict[str, Any]]:
    """A row for each number of clients and way: the median of the rounds' rates, and latencies over all of them."""
    rows = []
    for count in clients:
        rates: dict[str, list[float]] = {way: [] for way in WAYS}
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way, ask in WAYS.items():
                rate, took = ask_for(seconds, count, texts, lambda text, ask=ask: ask(pipe, text))
                rates[way].append(rate)
                times[way] += took
        for way in WAYS:
            p50, p95, p99 = np.percentile(times[way], [50, 95, 99]) * 1000
            row = {"clients": count, "way": way, "requests_per_second": float(np.median(rates[way]))}
            rows.append(row | {"p50": float(p50), "p95": float(p95), "p99": float(p99)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--precision")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-wait-ms", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    task = Bundle.load(options.bundle).task
    with pipeline(task, options.bundle, options.provider, options.threads, options.precision) as pipe:
        pipe.batching = replace(pipe.batching, max_wait_ms=options.max_wait_ms)
        rng = np.random.default_rng(0)
        sampler = TextSampler(pipe.model.tokenizer, rng)
        texts = [sampler.draw(int(length), rng) for length in rng.integers(LENGTHS[0], LENGTHS[1] + 1, 512)]
        pipe(texts)  # the tokenizer has seen them, and the engine its shapes
        rows = measure(pipe, texts, options.clients, options.seconds, options.rounds)
    print("| clients | way | requests/s | p50 | p95 | p99 |\n|---|---|---|---|---|---|")
    for row in rows:
        latencies = " | ".join(f"{row[name]:.1f}" for name in ("p50", "p95", "p99"))
        print(f"| {row['clients']} | {row['way']} | {row['requests_per_second']:.1f} | {latencies} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
