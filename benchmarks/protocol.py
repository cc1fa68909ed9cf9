"""The one protocol of all speed measurements: interleaved rounds in one run.

Every contender lives in a process of its own and gets the same draws. First each way to batch is tried, and the fastest
is kept for each contender and workload. Then all contenders answer the round's draws in turn, in an order that moves on
each round, so that a disturbance or a change of the machine's clock hits them alike. Every number is written down as
it is measured, so that a run that is cut short keeps what it has.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.machine import OtherWork
from benchmarks.process import ContenderError, Worker
from benchmarks.workloads import ONE_BY_ONE, Draw, Row, TextRow, Workload, fixed, useful_ways

Record = Callable[[dict[str, Any]], None]
ONE = Workload("first answer", "one sequence", fixed(1, 16))
ONE_TOKEN = Workload("first answer", "one token", fixed(1, 16), do="generate", new_tokens=1)
EIGHT = Workload("check", "sequences in batches of 8", fixed(8, 128), batch_rows=8)
RESERVE_MB = 1500.0  # for calls larger than the first one, and for the system
SETTLE = 0.02  # seconds for an engine's threads to stop spinning before the next contender's turn


@dataclass(frozen=True)
class Spec:
    """A contender: its name, its side ("peer", "ours" or "bound"), how to open it, and its ways to batch.

    `precision` is that of its matrix products; what stands between them may have another. `reference` names what its
    logits are compared with, where that is not transformers' answer to the same inputs; `skips` are workloads that it
    cannot do by its nature, which `about` tells.
    """

    name: str
    side: str
    kind: str
    options: dict[str, Any]
    ways: tuple[str, ...] = ()
    about: str = ""
    precision: str = "fp32"
    reference: str | None = None
    skips: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key not in ("kind", "options")}

    def ways_for(self, workload: Workload, draw: Draw) -> list[str]:
        return [] if workload.name in self.skips else useful_ways(self.ways, workload, draw)


@dataclass(frozen=True)
class Settings:
    """`rounds` measured rounds after `choice` rounds that try every way; `starts` fresh starts of each contender, one
    after the other or, with `together`, all at the same time."""

    threads: int
    cpus: list[int]
    rounds: int
    choice: int
    starts: int
    check_rows: int
    timeout: float
    seed: int = 0
    together: bool = False


@dataclass
class Contender:
    """A spec and its running process; `failures` maps workloads it failed on to the reason."""

    spec: Spec
    settings: Settings
    log: Path
    worker: Worker | None = None
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.spec.name

    def start(self) -> dict[str, Any]:
        """Open it in a fresh process.

        Raises:
            ContenderError: it could not start.
        """
        settings = self.settings
        self.worker = Worker(
            self.spec.kind,
            self.spec.options,
            threads=settings.threads,
            cpus=settings.cpus,
            log=self.log,
            timeout=settings.timeout,
        )
        return self.worker.started

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        if self.worker is None or not self.worker.alive:
            raise ContenderError("its process has ended")
        return self.worker.ask(message)

    def run(self, draw: Draw, way: str, workload: Workload, outputs: bool = False) -> dict[str, Any]:
        return self.ask(
            {
                "do": workload.do,
                "groups": [[row.to_json() for row in group] for group in draw],
                "way": way,
                "batch_rows": workload.batch_rows,
                "new_tokens": workload.new_tokens,
                "outputs": outputs,
            }
        )

    def close(self) -> None:
        if self.worker is not None:
            self.worker.close()
            self.worker = None


class Recorder:
    """Writes each record as a line of JSON at once; several threads may record."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("x", encoding="utf-8")
        self._lock = threading.Lock()

    def __call__(self, record: dict[str, Any]) -> None:
        with self._lock:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


def start_all(
    specs: Sequence[Spec],
    settings: Settings,
    log: Path,
    first: Row | TextRow,
    record: Record,
    *,
    generate: bool = False,
    several: Sequence[Row | TextRow] = (),
) -> list[Contender]:
    """Start every contender `settings.starts` times, with its first answer; the last process of each stays.

    Args:
        first: what the first answer is to; with `generate` it is the next token.
        several: rows of one more batch that is asked of contenders that start together: what is compiled for batches
            of several rows is compiled at the same time, too.

    Records "start" with seconds to import its libraries, to load the model and to the first answer, and MB of memory.
    """
    out: set[str] = set()
    needed: dict[str, float] = {}

    def start(spec: Spec, last: bool) -> Contender | None:
        contender = Contender(spec, settings, log)
        try:
            if last:
                _check_memory(needed.get(spec.name, 0.0))
            started = contender.start()
            asked = ONE_TOKEN if generate else ONE
            first_answer = contender.run([[first]], _first_way(spec), asked)["seconds"][0] if spec.ways else None
            if several and spec.ways:
                contender.run([several], spec.ways[-1], EIGHT)
            used = contender.ask({"do": "memory"})
        except ContenderError as error:
            contender.close()
            out.add(spec.name)
            record({"kind": "missing", "contender": spec.name, "reason": str(error)})
            return None
        record({"kind": "start", "contender": spec.name, **started, "first_answer": first_answer, **used})
        needed[spec.name] = used["peak_mb"]
        if not last:
            contender.close()
        return contender

    running: list[Contender | None] = []
    for number in range(settings.starts):
        left = [spec for spec in specs if spec.name not in out]
        one = partial(start, last=number + 1 == settings.starts)
        if settings.together and left:
            with ThreadPoolExecutor(len(left)) as pool:
                running = list(pool.map(one, left))
        else:
            running = [one(spec) for spec in left]
    return [contender for contender in running if contender is not None]


def _check_memory(needed_mb: float) -> None:
    """Raises ContenderError where a process that stays would leave less than `RESERVE_MB`: a machine that swaps or
    kills measures nothing."""
    free = psutil.virtual_memory().available / 1e6
    if free < needed_mb + RESERVE_MB:
        raise ContenderError(
            f"not enough memory beside the others: it took {needed_mb:.0f} MB, {free:.0f} MB are free; choose fewer "
            "contenders with --peers and --ours"
        )


def _first_way(spec: Spec) -> str:
    return ONE_BY_ONE if ONE_BY_ONE in spec.ways else spec.ways[0]


def check(
    contenders: Sequence[Contender], reference: Contender, references: dict[str, Contender], draw: Draw, record: Record
) -> None:
    """Compare each contender's logits with transformers' in fp32, sequence by sequence and without padding.

    Records "check": the largest difference, the largest logit, how many rows have the same best label or word, and
    the mean Kullback-Leibler divergence in nats.
    """
    expected: dict[str | None, np.ndarray] = {}
    for contender in contenders:
        if contender.spec.side == "bound":
            continue
        wanted = contender.spec.reference
        try:
            if wanted not in expected:
                source = reference if wanted is None else references[wanted]
                expected[wanted] = np.array(source.run(draw, _first_way(source.spec), EIGHT, True)["outputs"])
            found = np.array(contender.run(draw, contender.spec.ways[-1], EIGHT, True)["outputs"])
        except (ContenderError, KeyError) as error:
            record({"kind": "failed", "contender": contender.name, "workload": "check", "reason": str(error)})
            continue
        record({"kind": "check", "contender": contender.name, **compare(found, expected[wanted])})


def compare(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Differences of logits (rows, labels)."""
    p, q = (_log_softmax(values) for values in (expected, found))
    return {
        "rows": len(expected),
        "max_difference": float(np.abs(found - expected).max()),
        "max_logit": float(np.abs(expected).max()),
        "agreement": float((found.argmax(1) == expected.argmax(1)).mean()),
        "divergence": float((np.exp(p) * (p - q)).sum(1).mean()),
    }


def _log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def measure(
    workload: Workload,
    contenders: Sequence[Contender],
    settings: Settings,
    sample: Callable[[np.random.Generator], Draw],
    record: Record,
    progress: Callable[[str], None],
) -> None:
    """The rounds of one workload. Records "sample" (seconds of each group of one draw) and "round" (the noise).

    Args:
        sample: draws what is asked; called as often as the settings and the workload say, in a fixed order.
    """
    rng = np.random.default_rng([settings.seed, *workload.name.encode()])
    ways = _choose_ways(workload, contenders, settings, sample, rng, record, progress)
    noise = OtherWork()
    for number in range(settings.rounds):
        draws = [sample(rng) for _ in range(workload.calls)]
        for contender in rotated(list(ways), number):
            progress(f"{workload.name}, round {number + 1} of {settings.rounds}: {contender}")
            spot = next(item for item in contenders if item.name == contender)
            if workload.name in spot.failures:
                continue
            time.sleep(SETTLE)
            for call, draw in enumerate(draws):
                values = {"round": number, "call": call, "phase": "round"}
                if _timed(spot, workload, draw, ways[contender], values, record) is None:
                    break
        record(
            {"kind": "round", "workload": workload.name, "round": number, "load": os.getloadavg()[0],
             "other_cpus": noise.look()}
        )  # fmt: skip


def _choose_ways(
    workload: Workload,
    contenders: Sequence[Contender],
    settings: Settings,
    sample: Callable[[np.random.Generator], Draw],
    rng: np.random.Generator,
    record: Record,
    progress: Callable[[str], None],
) -> dict[str, str]:
    """Contender → its fastest way, by the best of `settings.choice` draws after one to warm up."""
    draws = [sample(rng) for _ in range(1 + settings.choice)]
    chosen: dict[str, str] = {}
    for contender in contenders:
        best: dict[str, float] = {}
        for way in contender.spec.ways_for(workload, draws[0]):
            progress(f"{workload.name}, {way}: {contender.name}")
            times = []
            for number, draw in enumerate(draws):
                values = {"round": number, "call": 0, "phase": "choice" if number else "warm-up"}
                times.append(_timed(contender, workload, draw, way, values, record))
                if times[-1] is None:
                    break
            kept = [seconds for seconds in times[1:] if seconds is not None]
            if len(kept) == settings.choice:
                best[way] = min(kept)
        if best:
            contender.failures.pop(workload.name, None)  # where one way fails, another may do
            chosen[contender.name] = min(best, key=lambda way: best[way])
    return chosen


def _timed(
    contender: Contender, workload: Workload, draw: Draw, way: str, values: dict[str, Any], record: Record
) -> float | None:
    """Seconds of a draw, recorded; None where the contender failed."""
    about = {"contender": contender.name, "workload": workload.name, "way": way}
    try:
        seconds = contender.run(draw, way, workload)["seconds"]
    except ContenderError as error:
        contender.failures[workload.name] = str(error)
        record({"kind": "failed", **about, "reason": str(error)})
        return None
    rows = [len(row) for group in draw for row in group]
    record({"kind": "sample", **about, **values, "rows": len(rows), "tokens": sum(rows), "seconds": seconds})
    return float(sum(seconds))


def rotated(items: list[str], by: int) -> list[str]:
    """The same order, begun elsewhere."""
    by %= max(1, len(items))
    return items[by:] + items[:by]


def summary(values: Sequence[float]) -> dict[str, float | int | None]:
    """Median and spread. A percentile is given only where enough values lie beyond it: p95 of 20, p99 of 100."""
    ordered = np.sort(np.asarray(values, np.float64))
    count = len(ordered)
    found: dict[str, float | int | None] = {"n": count, "median": statistics.median(ordered.tolist())}
    for name, share, least in (("p25", 25, 2), ("p75", 75, 2), ("p95", 95, 20), ("p99", 99, 100)):
        found[name] = float(np.percentile(ordered, share)) if count >= least else None
    return found | {"min": float(ordered[0]), "max": float(ordered[-1])}
