"""Many short texts in one process and by workers of Ray: `python -m benchmarks.ray_data BUNDLE [--texts N]`.

It runs in an environment with Ray, such as that of `make test-scale`:

    xlm-export export examples/checkpoints/language-id build/benchmarks/language-id --layout packed
    build/scale/bin/python -m benchmarks.ray_data build/benchmarks/language-id

Each way is a command, `xlm-runtime TASK BUNDLE --input … --output …`, timed from its start to its end: the Python, the
Ray and the engines that it starts are in it. Memory is the sum over all its processes (what they share counted once),
looked at twice a second. In the last way a worker is killed when half of the texts are done. The outputs must be equal,
byte for byte. A table, and with --report the same in a file.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from benchmarks.machine import describe
from benchmarks.texts import TextSampler
from xlm_runtime import XLMTokenizer
from xlm_runtime.bundle import Bundle

LENGTHS = (6, 20)  # tokens
DISTINCT = 20_000  # texts, which come again
SECONDS = 0.5  # between two looks
WORKER = "ChunkWorker"  # in the title of its process


@dataclass(frozen=True)
class Way:
    """A way to answer a file: options of the command, and whether one of its workers is killed."""

    name: str
    options: tuple[str, ...] = ()
    kills: bool = False


WAYS = (
    Way("one process"),
    Way("Ray, 1 worker", ("--ray", "--workers", "1")),
    Way("Ray, 2 workers", ("--ray", "--workers", "2")),
    Way("Ray, 2 workers, one killed", ("--ray", "--workers", "2"), kills=True),
)


@dataclass(frozen=True)
class Run:
    """What a way took.

    Attributes:
        seconds: from the command's start to its end.
        first: seconds until the first answers were written.
        megabytes: at the peak, of all processes.
        processes: at the peak.
        killed: the number of the worker's process that was killed.
        digest: of the output.
    """

    way: str
    seconds: float
    first: float
    megabytes: float
    processes: int
    killed: int | None
    digest: str


def write_texts(path: Path, bundle: Path, count: int) -> None:
    """A file of JSON Lines, with an id and a text each."""
    rng = np.random.default_rng(0)
    sampler = TextSampler(XLMTokenizer.from_pretrained(bundle), rng)
    lengths = rng.integers(LENGTHS[0], LENGTHS[1] + 1, min(count, DISTINCT))
    texts = [sampler.draw(int(length), rng) for length in lengths]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(
            json.dumps({"id": number, "text": texts[number % len(texts)]}) + "\n" for number in range(count)
        )


def run(way: Way, task: str, bundle: Path, source: Path, output: Path, count: int) -> Run:
    """Answer the file in one way.

    Raises:
        RuntimeError: the command failed, or ended before a worker was killed.
    """
    command = [sys.executable, "-m", "xlm_runtime", task, str(bundle), "--input", str(source), "--output", str(output)]
    log = output.with_suffix(".log")
    begun = time.perf_counter()
    with log.open("wb") as errors:
        process = subprocess.Popen([*command, *way.options], stdout=errors, stderr=errors)
    first, peak, processes, killed = 0.0, 0.0, 0, None
    part = output.with_name(f"{output.name}.part")
    while process.poll() is None:
        time.sleep(min(SECONDS, 0.05 + (time.perf_counter() - begun) / 4))
        if not first and _size(part):
            first = time.perf_counter() - begun
        family = _family(process.pid)
        used = sum(map(_megabytes, family))
        if used > peak:
            peak, processes = used, len(family)
        if way.kills and killed is None and _rows_done(part) * 2 >= count:
            killed = _kill_one(family)
    seconds = time.perf_counter() - begun
    if process.returncode or (way.kills and killed is None):
        raise RuntimeError(f"{way.name}: status {process.returncode}, killed {killed}\n{log.read_text()[-3000:]}")
    digest = hashlib.sha256(output.read_bytes()).hexdigest()
    return Run(way.name, seconds, first or seconds, peak, processes, killed, digest)


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def _megabytes(process: psutil.Process) -> float:
    """Of a process, with its share of what it shares."""
    with contextlib.suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0


def _kill_one(family: Sequence[psutil.Process]) -> int | None:
    for process in family:
        with contextlib.suppress(psutil.Error):
            if WORKER in " ".join(process.cmdline()):
                process.kill()
                return process.pid
    return None


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _rows_done(part: Path) -> int:
    """What the journal says."""
    with contextlib.suppress(OSError, ValueError):
        return int(json.loads(part.with_name(f"{part.name}.json").read_text(encoding="utf-8"))["state"]["rows"])
    return 0


def table(runs: Sequence[Run], count: int) -> str:
    """In Markdown."""
    lines = [
        "| way | seconds | to the first answer | texts/s | to one process | peak memory, MB | processes | output |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for each in runs:
        same = "equal" if each.digest == runs[0].digest else "DIFFERENT"
        lines.append(
            f"| {each.way} | {each.seconds:.1f} | {each.first:.1f} | {count / each.seconds:,.0f} | "
            f"{runs[0].seconds / each.seconds:.2f} | {each.megabytes:,.0f} | {each.processes} | {same} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--report", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    bundle = Bundle.load(options.bundle)
    # Ray's folder has sockets, whose paths are short
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as ray:
        os.environ |= {"RAY_TMPDIR": ray, "RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES": "200000000"}
        source = Path(work, "texts.jsonl")
        write_texts(source, options.bundle, options.texts)
        runs = []
        for number, way in enumerate(WAYS):
            print(f"{way.name} …", file=sys.stderr, flush=True)
            output = Path(work, f"answers-{number}.jsonl")
            runs.append(run(way, bundle.task, options.bundle.absolute(), source, output, options.texts))
    machine = describe()
    title = (
        f"{options.texts:,} texts of {LENGTHS[0]} to {LENGTHS[1]} tokens, {bundle.task} with {options.bundle.name} "
        f"({bundle.graphs[0].title}, {bundle.config.n_layers} × {bundle.config.emb_dim}), {machine['cpus']} CPUs of "
        f"{machine['cpu']}"
    )
    text = f"# Files by workers of Ray\n\n{title}.\n\n{table(runs, options.texts)}\n"
    print(text)
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    return len({each.digest for each in runs}) - 1


if __name__ == "__main__":
    sys.exit(main())
