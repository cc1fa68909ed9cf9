"""The load test of the server, `python -m benchmarks serving [options]`: requests a second and latencies over loopback.

Each model is served in three ways, all behind the server's own HTTP layer and each in a process of its own: with the
batcher, with one call of the pipeline after the other, and with transformers' pipeline. Clients are another process
(`serving_load`), on the same CPUs. The same texts also go to the bare pipeline, without HTTP.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import machine
from benchmarks.prepare import PreparationError
from benchmarks.process import ROOT
from benchmarks.protocol import Record, Recorder
from benchmarks.report import read_report
from benchmarks.serving_models import LENGTHS, MODELS, RECIPE, TASK, Model, draw_texts, make_model
from benchmarks.serving_report import ALONE, BATCHED, RAY, TRANSFORMERS, summarize, write_report
from benchmarks.suite import REPORTS, default_threads
from xlm_runtime import pipeline

CLIENTS = (1, 8, 32, 128)
RATES = (0.5, 0.9, 1.2, 1.8)  # of the requests a second that 32 clients get of one call after the other
TOLERANCE = 0.02  # of a score: OpenVINO computes in bf16 between int8 products
START_SECONDS = 120
LIMIT_SECONDS = 30  # of one measurement
PATH = "/models/served"
Top = tuple[str, float]
"""The best label and its score."""


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    seconds: float
    rounds: int
    clients: Sequence[int]
    rates: Sequence[float]
    threads: int


class ServerError(Exception):
    """A server that did not start, or clients that failed."""


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[int]:
    """A server, from when it is ready; its port.

    Raises:
        ServerError: it ended, or is not ready in time.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
                break
            if process.poll() is not None or time.monotonic() > end:
                raise ServerError(f"it did not start; its words are in {log}")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def commands(model: Model, threads: int, ray: str | None) -> dict[str, list[str]]:
    """Of each way the command line without the port, which comes last."""
    found = {}
    for way in (BATCHED, ALONE, TRANSFORMERS):
        spec = {
            "way": way, "bundle": str(model.bundle), "checkpoint": str(model.checkpoint), "precision": RECIPE,
            "provider": model.served.provider, "threads": threads,
        }  # fmt: skip
        found[way] = [sys.executable, "-m", "benchmarks.serving_server", json.dumps(spec)]
    if ray:
        found[RAY] = [
            ray, "-m", "xlm_runtime", "serve", f"served={model.bundle}", "--provider", model.served.provider,
            "--precision", RECIPE, "--threads", str(threads), "--port",
        ]  # fmt: skip
    return found


def load(port: int, texts: Sequence[str], **job: Any) -> dict[str, Any]:
    """What the clients' process tells.

    Raises:
        ServerError: it failed.
    """
    whole = {"host": "127.0.0.1", "port": port, "path": PATH, "bodies": [{"inputs": text} for text in texts], **job}
    command = [sys.executable, "-m", "benchmarks.serving_load"]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(whole), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerError(done.stderr.strip().splitlines()[-1][:300])
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def best(answer: Any) -> Top:
    """Label and score of the first of an answer's labels, whichever way they are nested."""
    while isinstance(answer, list):
        answer = answer[0]
    return answer["label"], answer["score"]


def figures(found: dict[str, Any], right: Sequence[Top]) -> dict[str, Any]:
    """A measurement's figures, and how many texts' last answers are not the right ones."""
    latencies = found["latencies"]
    p50, p95, p99 = map(float, np.percentile(latencies, [50, 95, 99])) if latencies else (None, None, None)
    wrong = 0
    for number, answer in found["answers"].items():
        label, score = best(json.loads(answer))
        wrong += label != right[int(number)][0] or abs(score - right[int(number)][1]) > TOLERANCE
    kept = {name: found[name] for name in ("requests_per_second", "statuses", "unanswered", "cpu_ms")}
    return {**kept, "p50": p50, "p95": p95, "p99": p99, "compared": len(found["answers"]), "wrong": wrong}


def check(
    model: str, way: str, found: Sequence[tuple[str, float]], bare: Sequence[tuple[str, float]]
) -> dict[str, Any]:
    pairs = list(zip(found, bare, strict=True))
    return {
        "kind": "check", "model": model, "way": way, "texts": len(pairs),
        "same_label": statistics.mean(mine[0] == its[0] for mine, its in pairs),
        "max_difference": max(abs(mine[1] - its[1]) for mine, its in pairs),
    }  # fmt: skip


def ask_each(port: int, texts: Sequence[str]) -> list[Top]:
    """The server's answers, one text after the other."""
    found = []
    for text in texts:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", json.dumps({"inputs": text}).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=60) as page:
            found.append(best(json.load(page)))
    return found


def measure_served(model: Model, settings: Settings, ray: str | None, log: Path, record: Record) -> None:
    """Every way of serving a model, in turns; one that does not start is recorded as missing."""
    name, texts = model.served.name, draw_texts(model.bundle)
    with pipeline(TASK, model.bundle, model.served.provider, settings.threads, RECIPE) as pipe:
        bare = [best(pipe(text)) for text in texts[: len(texts) // 4]]
    others = machine.OtherWork()
    with contextlib.ExitStack() as stack:
        ports = {}
        for way, command in commands(model, settings.threads, ray).items():
            port = free_port()
            try:
                ports[way] = stack.enter_context(running([*command, str(port)], port, log))
            except ServerError as error:
                record({"kind": "missing", "what": f"{name}, {way}", "reason": str(error)})
        if not ports:
            return
        texts = texts[: len(bare)]
        right = {way: ask_each(port, texts) for way, port in ports.items()}
        for way, answers in right.items():
            record(check(name, way, answers, bare))
        rates: dict[str, list[float]] = {}
        for turn in range(settings.rounds):
            order = [*ports][turn % len(ports) :] + [*ports][: turn % len(ports)]
            for clients in settings.clients:
                for way in order:
                    job = {"clients": clients, "seconds": settings.seconds, "limit": LIMIT_SECONDS}
                    found = figures(load(ports[way], texts, **job), right[way])
                    record({"kind": "closed", "model": name, "way": way, "clients": clients, "round": turn, **found})
                    if clients == min(settings.clients, key=lambda count: abs(count - 32)):
                        rates.setdefault(way, []).append(found["requests_per_second"])
            record({"kind": "noise", "model": name, "other_cpus": others.look()})
        most = {way: statistics.median(values) for way, values in rates.items()}
        for share in settings.rates if ALONE in most else ():
            rate = share * most[ALONE]
            for way, port in ports.items():
                if way == TRANSFORMERS and rate > most[way]:
                    continue  # its queue would be as long as the test is
                job = {"rate": rate, "seed": 0, "seconds": settings.seconds, "limit": LIMIT_SECONDS}
                found = figures(load(port, texts, **job), right[way])
                record({"kind": "open", "model": name, "way": way, "rate": rate, **found})


def measure_bare(model: Model, settings: Settings, folder: Path, record: Record) -> None:
    """The pipeline by itself, `benchmarks.batcher` in a process of its own."""
    found = folder / "bare.json"
    command = [
        sys.executable, "-m", "benchmarks.batcher", str(model.bundle), "--provider", model.served.provider,
        "--precision", RECIPE, "--threads", str(settings.threads), "--seconds", str(settings.seconds),
        "--rounds", "1", "--json", str(found), "--clients", *map(str, settings.clients),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1][:300]
        record({"kind": "missing", "what": f"{model.served.name}, the bare pipeline", "reason": reason})
        return
    names = {"one call each": ALONE, "batched": BATCHED}
    for row in json.loads(found.read_text(encoding="utf-8")):
        record({"kind": "bare", "model": model.served.name, **row, "way": names[row["way"]]})
    found.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small models and short times: does everything run?")
    parser.add_argument("--models", default=",".join(each.name for each in MODELS), help="some of %(default)s")
    parser.add_argument("--seconds", type=float, help="of each measurement (3)")
    parser.add_argument("--rounds", type=int, help="of the closed loop (2)")
    parser.add_argument("--threads", type=int, default=default_threads(), help="of a server's calls (%(default)s)")
    parser.add_argument("--ray", metavar="PYTHON", help="measure Ray Serve, too, in the environment of this Python")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "benchmarks", help="models are kept here")
    parser.add_argument("--output", type=Path, metavar="PREFIX", help=f"default {REPORTS.name}/serving-DATE")
    parser.add_argument("--render", type=Path, metavar="REPORT", help="only draw a report's tables anew")
    options = parser.parse_args()
    if options.render:
        print(write_report(summarize(read_report(options.render)), options.render.with_suffix("")))
        return
    known = {each.name: each for each in MODELS}
    names = [name.strip() for name in options.models.split(",")]
    for name in names:
        if name not in known:
            raise SystemExit(f"Unknown model '{name}'; expected some of {', '.join(known)}.")
    settings = Settings(
        seconds=options.seconds or (0.3 if options.quick else 3.0),
        rounds=options.rounds or (1 if options.quick else 2),
        clients=(1, 32) if options.quick else CLIENTS,
        rates=(0.5, 1.2) if options.quick else RATES,
        threads=options.threads,
    )
    prefix = options.output or REPORTS / f"serving-{datetime.datetime.now().strftime('%Y-%m-%d-%H%M%S')}"
    models = []
    for name in names:
        try:
            models.append(make_model(known[name], options.work, options.quick, print))
        except PreparationError as error:
            raise SystemExit(str(error)) from error
    run(models, settings, options.ray, prefix)


def run(models: Sequence[Model], settings: Settings, ray: str | None, prefix: Path) -> None:
    """Measure, and write `prefix`.jsonl as it goes and .json and .md at the end."""
    try:
        record = Recorder(Path(f"{prefix}.jsonl"))
    except FileExistsError as error:
        raise SystemExit(f"The report '{prefix}.jsonl' is already there; give another --output.") from error
    others = machine.OtherWork()
    psutil.cpu_percent(2.0)  # this program does nothing meanwhile
    busy = others.look()
    if busy > machine.QUIET:
        print(f"warning: other programs use {busy:.1f} CPUs; times will not be those of a quiet machine")
    record(
        {
            "kind": "run", "suite": "serving", "started": datetime.datetime.now().isoformat(timespec="seconds"),
            "command": " ".join(["python -m benchmarks serving", *sys.argv[1:]]), "machine": machine.describe(),
            "load": os.getloadavg(), "other_cpus": busy, "threads": settings.threads, "seconds": settings.seconds,
            "rounds": settings.rounds, "lengths": LENGTHS, "gains": {m.served.name: m.served.gain for m in models},
        }
    )  # fmt: skip
    for model in models:
        print(f"measuring {model.served.name}", flush=True)
        measure_served(model, settings, ray, Path(f"{prefix}.log"), record)
        measure_bare(model, settings, prefix.parent, record)
    record.close()
    print(write_report(summarize(read_report(record.path)), prefix))


if __name__ == "__main__":
    main()
