"""Pipelines in other processes: after a fork, and sent there."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_runtime import pipeline
from xlm_runtime.bundle import file_sha256
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.processes import PerProcess

TASK = "text-classification"
TEXTS = ["The old town", "Der alte Leuchtturm steht am Meer."] * 8
FORK = multiprocessing.get_context("fork")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_once_in_each_process() -> None:
    made: list[int] = []
    thing = PerProcess(lambda: made.append(os.getpid()) or len(made))
    assert [thing.get(), thing.get()] == [1, 1]
    if hasattr(os, "fork"):
        child = os.fork()
        if not child:
            os._exit(0 if [thing.get(), thing.get()] == [2, 2] else 1)
        assert os.waitpid(child, 0)[1] == 0


def in_a_fork(work: Any) -> Any:
    """What `work` returns in a child, which ends as a Python process does."""

    def child(connection: Any) -> None:
        try:
            connection.send(work())
        except Exception as error:
            connection.send(error)

    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=child, args=(theirs,))
    process.start()
    answered = ours.poll(60)
    if not answered:
        process.kill()
    assert answered, "the child hangs"
    found = ours.recv()
    process.join(60)
    assert process.exitcode == 0
    return found


@needs_fork
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_a_pipeline_answers_after_a_fork(provider: str, threads: int, bundles: Bundles) -> None:
    if provider == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    model = pipeline(TASK, bundles(TASK), provider, threads)
    answers = model(TEXTS)
    for found, expected in zip(in_a_fork(lambda: model(TEXTS)), answers, strict=True):
        assert found["label"] == expected["label"]
        assert found["score"] == pytest.approx(expected["score"], abs=1e-5)
    assert model(TEXTS) == answers, "and before it as ever"


@needs_fork
@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_sessions_that_a_fork_copied_are_never_taken_down(provider: str, bundles: Bundles) -> None:
    """An engine would wait for its threads, in the garbage collection of a child for one."""
    if provider == "openvino":
        pytest.importorskip("openvino", reason="the openvino extra is not installed")
    lost: dict[str, Any] = {"model": pipeline(TASK, bundles(TASK), provider, 2), "other": None}
    lost["model"](TEXTS)
    lost["self"] = lost
    del lost
    model = pipeline(TASK, bundles(TASK), provider, 2)
    assert in_a_fork(lambda: (gc.collect(), len(model(TEXTS)))[1]) == len(TEXTS)


@needs_fork
def test_weights_that_changed_are_found_after_a_fork(bundles: Bundles, tmp_path: Path) -> None:
    """The session reads them anew there."""
    folder = Path(shutil.copytree(bundles(TASK), tmp_path / "copy"))
    model = pipeline(TASK, folder)
    model("Good!")
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    assert model("Good!")
    assert "has changed since the export" in str(in_a_fork(lambda: model("Good!")))


@pytest.mark.parametrize("task", PIPELINES)
def test_a_pipeline_is_pickled_by_how_it_was_opened(
    task: str, bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundles(PIPELINES[task].bundle_task)
    monkeypatch.chdir(folder.parent)
    model = pipeline(task, folder.name, threads=1, max_tokens=77)
    model.batching = copy.replace(model.batching, packed=True) if hasattr(copy, "replace") else model.batching
    content = pickle.dumps(model)
    assert len(content) < 2000, "no weights and no vocabulary"
    monkeypatch.chdir("/")
    other = pickle.loads(content)
    assert type(other) is type(model)
    assert other.batching == model.batching
    assert other.model.session is not model.model.session
    assert other.model.graph == model.model.graph


@needs_fork
@pytest.mark.parametrize("task", [TASK, "text-generation"])
def test_requests_are_answered_after_a_fork(task: str, bundles: Bundles) -> None:
    """By a thread of the child's own: a fork copies the queue, and not the thread that reads it."""
    model = pipeline(task, bundles(task))
    expected = model.submit(TEXTS[:2]).result(60)

    def ask_at_once() -> Any:
        with ThreadPoolExecutor(4) as callers:
            futures = list(callers.map(lambda _: model.submit(TEXTS[:2]), range(8)))
        return [future.result(60) for future in futures]

    answers = in_a_fork(ask_at_once)
    assert len(answers) == 8
    if task == TASK:
        labels = [[answer["label"] for answer in each] for each in answers]
        assert labels == [[answer["label"] for answer in expected]] * 8
    assert in_a_fork(lambda: model.close()) is None
    assert model.submit(TEXTS[:2]).result(60) == expected, "and before it as ever"
    model.close()


def test_a_pipeline_with_a_running_batcher_is_pickled(bundles: Bundles) -> None:
    model = pipeline(TASK, bundles(TASK))
    model.batching = replace(model.batching, max_wait_ms=0.5, max_queue=7)
    future = model.submit("Good!")
    other = pickle.loads(pickle.dumps(model))
    assert other.batching == model.batching
    assert other.submit("Good!").result(60) == future.result(60)
    model.close()
    assert other("Good!") == pickle.loads(pickle.dumps(model))("Good!"), "a closed one is opened anew"


def test_a_pickled_pipeline_answers_alike(bundles: Bundles) -> None:
    model = pipeline(TASK, bundles(TASK))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(model, [TEXTS]) == [model(TEXTS)]
    assert file_sha256(bundles(TASK) / "model.onnx") == model.model.bundle.files["model.onnx"]
