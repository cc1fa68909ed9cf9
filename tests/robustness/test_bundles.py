"""The campaign on bundles: whatever is done to them ends in an answer or in an error of this project.

Few of each run with the other tests; `pytest -m campaign -rP tests/robustness` runs many and prints the counts, which
`docs/reliability.md` keeps.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.robustness.damage import TASK, TEXT, Edit, edit_bytes, edit_index, edit_json, edit_paths, run_edits
from xlm_runtime import pipeline
from xlm_runtime.bundle import BUNDLE_FILE, Bundle

FORK = multiprocessing.get_context("fork")
EDITS: dict[str, tuple[Edit, bool, int]] = {
    "bytes": (edit_bytes, True, 1000),
    "table of contents": (edit_json(BUNDLE_FILE), True, 2000),
    "config.json": (edit_json("config.json"), False, 500),
    "tokenizer_config.json": (edit_json("tokenizer_config.json"), False, 500),
    "vocab.json": (edit_json("vocab.json"), False, 300),
    "moses.json": (edit_json("moses.json"), False, 500),
    "token_index.bin": (edit_index, False, 500),
    "paths": (edit_paths, True, 500),
}


def both(few: int, many: int) -> list[object]:
    """How many of them run with the other tests, and how many in the campaign."""
    return [pytest.param(few, id="few"), pytest.param(many, id="many", marks=pytest.mark.campaign)]


@pytest.mark.parametrize(
    ("case", "count"),
    [
        *((name, 15) for name in EDITS),
        *(pytest.param(name, many, marks=pytest.mark.campaign) for name, (_, _, many) in EDITS.items()),
    ],
)
def test_edits(case: str, count: int, bundles: Bundles, tmp_path: Path) -> None:
    edit, same_answer, _ = EDITS[case]
    found = run_edits(bundles(TASK), tmp_path, edit, count, seed=0, same_answer=same_answer)
    print(f"{case}: {count} edits: {dict(found)}")
    assert sum(found.values()) == count


def killing(calls: int) -> Callable[[object, str, object], None]:
    """A profiler that kills the process after so many calls of functions."""
    left = calls

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal left
        left -= event in ("call", "c_call")
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


@pytest.mark.parametrize("count", both(3, 100))
def test_kills(count: int, bundles: Bundles, tmp_path: Path) -> None:
    """A writer is killed anywhere on its way: the bundle loads, and the next writer works."""
    left: Counter[str] = Counter()
    folder = Path(shutil.copytree(bundles(TASK), tmp_path / "bundle"))
    for number in range(count):

        def note(now: Bundle, number: int = number) -> Bundle:
            return replace(now, source={**now.source, "number": number})

        child = os.fork()
        if not child:
            after = killing(random.Random(number).randrange(1, 12000))
            sys.setprofile(after)
            Bundle.update(folder, note)
            sys.setprofile(None)
            os._exit(0)
        left["killed" if os.waitpid(child, 0)[1] else "written"] += 1
        assert Bundle.load(folder).source.get("number", -1) in range(-1, number + 1)
        made = Bundle.update(folder, note)
        assert Bundle.load(folder) == made
        assert {path.name for path in folder.iterdir()} == {*made.files, BUNDLE_FILE}
    print(f"kills: {count}: {dict(left)}")


@pytest.mark.parametrize("count", both(10, 300))
def test_two_writers(count: int, bundles: Bundles, tmp_path: Path) -> None:
    """Two processes write again and again: nothing of either is lost, and readers always find a whole table."""
    folder = Path(shutil.copytree(bundles(TASK), tmp_path / "bundle"))

    def write(name: str) -> None:
        for number in range(count):
            entry = {f"{name} {number}": "1"}
            Bundle.update(folder, lambda now, entry=entry: replace(now, versions=now.versions | entry))

    writers = [FORK.Process(target=write, args=(name,)) for name in ("a", "b")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        Bundle.load(folder)
    assert [writer.exitcode for writer in writers] == [0, 0]
    there = Bundle.load(folder).versions
    assert {f"{name} {number}" for name in "ab" for number in range(count)} <= there.keys()
    assert not list(folder.glob(".*"))
    print(f"two writers: {count} times each: nothing lost")


LIMITED = """
import json, random, resource, sys
from pathlib import Path
from xlm_runtime import pipeline, XLMError

folder, provider, count, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
def batch():
    return ["the old town %d " % rng.randrange(50) * rng.randrange(1, 12) for _ in range(rng.randrange(1, 65))]
def key(answers):
    return [(answer["label"], round(answer["score"], 3)) for answer in answers]
def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
model = pipeline("text-classification", folder, provider, threads=2, max_tokens=1 << 20)
other = pipeline("text-classification", folder, "cpu", threads=1)
for number in range(count):
    texts = batch()
    expected = key(other(texts))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit(pages * 4096 + rng.choice([0, 1, 2, 4, 8, 16, 32]) * 2**20)
    try:
        kind, answers = "answer", model(texts)
    except (XLMError, MemoryError) as error:
        kind, answers = type(error).__name__, None
    finally:
        limit(resource.RLIM_INFINITY)
    if answers is not None:
        assert all(a[0] == b[0] and abs(a[1] - b[1]) < 0.01 for a, b in zip(key(answers), expected)), (number, expected)
    print(kind, flush=True)
"""
# the C library's own end of a process, for which there is no error
_ABORTED = "cannot allocate memory for thread-local data"


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("count", both(5, 200))
def test_out_of_memory(count: int, provider: str, bundles: Bundles) -> None:
    """Calls with a little more memory than the process has: the right answer or an error, and then the next call."""
    pytest.importorskip("openvino" if provider == "openvino" else "onnxruntime")
    found: Counter[str] = Counter()
    for seed in range(-(-count // 20)):
        command = [sys.executable, "-c", LIMITED, str(bundles(TASK)), provider, str(min(count, 20)), str(seed)]
        done = subprocess.run(command, capture_output=True, text=True)
        found.update(done.stdout.split())
        if done.returncode:
            assert _ABORTED in done.stderr, done.stderr
            found["ended by the C library"] += 1
    print(f"out of memory, {provider}: {sum(found.values())} calls: {dict(found)}")
    assert found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("count", both(2, 50))
def test_forks(count: int, provider: str, bundles: Bundles) -> None:
    """A pipeline that answered, before and after others of its process, answers in each child."""
    pytest.importorskip("openvino" if provider == "openvino" else "onnxruntime")
    model = pipeline(TASK, bundles(TASK), provider, threads=2)
    expected = model(TEXT)["label"]
    for _ in range(count):
        ours, theirs = FORK.Pipe()
        child = FORK.Process(target=lambda end=theirs: end.send(model([TEXT] * 9)[-1]["label"]))
        child.start()
        assert ours.poll(60), "the child hangs"
        assert ours.recv() == expected
        child.join()
        assert child.exitcode == 0
        assert model(TEXT)["label"] == expected
    print(f"forks, {provider}: {count}: all answered")
