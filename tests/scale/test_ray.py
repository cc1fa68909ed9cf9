"""Files and datasets, answered by workers of a real Ray of this machine (`make test-scale`)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.runtime.answers import same
from tests.runtime.texts import LANGS, TEXTS
from xlm_runtime import pipeline
from xlm_runtime.bundle.remote import CACHE_VARIABLE
from xlm_runtime.cli import main as cli
from xlm_runtime.cli import tasks
from xlm_runtime.errors import InputError
from xlm_runtime.ray import answers

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.scale
CLASSIFY = "text-classification"
ROWS = [{"id": number, "text": TEXTS[number % 7], "lang": LANGS[number % 7]} for number in range(3000)]
BAD = (700, 2900)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets' paths are short
    options = {"include_dashboard": False, "object_store_memory": 200 * 2**20, "log_to_driver": False}
    ray.init(address="local", num_cpus=2, _temp_dir=folder, logging_level="error", **options)
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def run(*words: object) -> int:
    return cli.main([str(word) for word in words])


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.jsonl", [row | ({"text": " "} if row["id"] in BAD else {}) for row in ROWS])


@pytest.fixture
def whole(bundles: Bundles, source: Path, tmp_path: Path) -> Path:
    """What a job in one process writes."""
    output = tmp_path / "whole.jsonl"
    code = run(CLASSIFY, bundles(CLASSIFY), "--input", source, "--output", output, "--on-error", "skip")
    assert code == tasks.EXIT_SOME_FAILED
    return output


def errors(output: Path) -> bytes:
    return output.with_name(f"{output.name}.errors.jsonl").read_bytes()


def dying_once(args: argparse.Namespace) -> Any:
    """Opens a bundle in a worker. The first one that answers a third chunk is killed there, amidst a task."""
    pipe, options = tasks.open_answering(args)
    answer, chunks = pipe.answer, count()

    def answer_or_die(items: Any, **rest: Any) -> Any:
        if next(chunks) == 2:
            with suppress(FileExistsError):
                Path(f"{args.output}.killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return answer(items, **rest)

    pipe.answer = answer_or_die
    return pipe, options


def failing(args: argparse.Namespace) -> Any:
    raise MemoryError("no room for the model")


def test_a_file_is_that_of_one_process(
    bundles: Bundles, source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = tmp_path / "out.jsonl"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    words = (CLASSIFY, f"file://{bundles(CLASSIFY)}", "--input", source, "--output", output)
    workers = ("--ray", "--workers", 2)
    assert run(*words, *workers) == 1
    assert "line 701: The text is empty; give at least one word. 512 rows are done" in capsys.readouterr().err
    assert run(*words, *workers, "--on-error", "skip") == tasks.EXIT_SOME_FAILED
    assert "xlm-runtime: goes on behind 512 rows\n" in capsys.readouterr().err
    assert output.read_bytes() == whole.read_bytes()
    assert errors(output) == errors(whole)
    assert len([path for path in (tmp_path / "cache" / "bundles").iterdir() if path.is_dir()]) == 1
    other = tmp_path / "other.jsonl"
    for unfit, message in (
        (("--precision", "int8"), f"it has fp32. (on {socket.gethostname()})"),
        (("--workers", 3), "3 workers were asked for, and Ray has 2 CPUs"),
    ):
        assert run(*words[:-1], other, *workers, *unfit) == 1
        assert message in capsys.readouterr().err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("other")]


def test_a_worker_that_is_killed_loses_nothing(
    bundles: Bundles, source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    output = tmp_path / "out.jsonl"
    words = (CLASSIFY, bundles(CLASSIFY), "--input", source, "--output", output, "--on-error", "skip", "--ray")
    monkeypatch.setattr(tasks, "open_answering", failing)
    assert run(*words) == 1
    assert "Ray failed: " in (said := capsys.readouterr().err)
    assert "no room for the model" in said
    monkeypatch.setattr(tasks, "open_answering", dying_once)
    assert run(*words, "--workers", 2) == tasks.EXIT_SOME_FAILED
    assert Path(f"{output}.killed").exists()
    assert output.read_bytes() == whole.read_bytes()
    assert errors(output) == errors(whole)


def test_options_of_tasks_reach_the_workers(bundles: Bundles, tmp_path: Path) -> None:
    prompts = write(tmp_path / "in.jsonl", [{"id": 1, "text": "The old"}, {"text": "A b"}])
    for words in (
        ("text-generation", "--max-new-tokens", 4, "--sample", "--seed", 3, "--unbuffered"),
        ("feature-extraction", "--pooling", "mean"),
    ):
        command = (words[0], bundles(str(words[0])), "--input", prompts, *words[1:], "--force", "--output")
        for output, ray_options in (("one.jsonl", ()), ("ray.jsonl", ("--ray",))):
            assert run(*command, tmp_path / output, *ray_options) == 0
        found = [[json.loads(line) for line in (tmp_path / name).open()] for name in ("one.jsonl", "ray.jsonl")]
        same(found[1], found[0])


def test_a_dataset(bundles: Bundles) -> None:
    folder = bundles(CLASSIFY)
    rows = [{"id": row["id"], "review": " " if row["id"] in BAD else row["text"], "lang": row["lang"]} for row in ROWS]
    dataset = ray.data.from_items(rows, override_num_blocks=7)
    columns = {"uid": "id", "text": "review", "lang": "lang"}
    texts = [{"text": row["review"], "lang": row["lang"]} for row in rows]
    expected = pipeline(CLASSIFY, folder)(texts, top_k=2, on_error="return")
    asked: dict[str, Any] = {"workers": 2, "columns": columns, "options": {"top_k": 2}}
    found = answers(dataset, CLASSIFY, folder, on_error="return", batch_size=100, **asked).take_all()
    assert [row["uid"] for row in found] == list(range(3000))
    assert [row["uid"] for row in found if row["error"] is not None] == list(BAD)
    assert found[BAD[0]]["error"] == {"type": "InputError", "message": "The text is empty; give at least one word."}
    good = [place for place in range(3000) if place not in BAD]
    same([found[place]["answer"] for place in good], [expected[place] for place in good])


def test_what_is_refused(bundles: Bundles) -> None:
    dataset = ray.data.from_items([{"text": "a"}])
    for changed, message in (
        ({"options": {"top": 2}}, "Unknown name 'top' in options; text-classification has lang, top_k"),
        ({"opening": {"threads": 2}}, "Unknown name 'threads' in opening"),
        ({"options": {"lang": threading.Lock()}}, "'lang' in options is a lock, which cannot be sent to workers"),
        ({"workers": 0}, "The number of workers is 0"),
        ({"on_error": "pass"}, "Unknown on_error 'pass'"),
    ):
        with pytest.raises(InputError, match=message):
            answers(dataset, CLASSIFY, bundles(CLASSIFY), **changed)
