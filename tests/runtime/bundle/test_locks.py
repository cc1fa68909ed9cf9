"""Locks between processes: one writer at a time, and what a killed process left is known as such."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from xlm_runtime.bundle.atomic import drafts, write_text
from xlm_runtime.bundle.locks import held, writing
from xlm_runtime.bundle.schema import LOCK_FILE

FORK = multiprocessing.get_context("fork")


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    def child(order: multiprocessing.connection.Connection) -> None:
        order.send("waits")
        with writing(tmp_path):
            order.send("writes")

    ours, theirs = FORK.Pipe()
    with writing(tmp_path):
        process = FORK.Process(target=child, args=(theirs,))
        process.start()
        assert ours.recv() == "waits"
        with held(tmp_path / LOCK_FILE) as mine:
            assert not mine, "the lock is taken, by this process as well"
        assert not ours.poll(0.05)
    assert ours.recv() == "writes"
    process.join()
    assert not any(tmp_path.iterdir()), "the lock is gone"


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    ready, ours = os.pipe()
    child = os.fork()
    if not child:
        with held(tmp_path / "lock"), drafts(tmp_path / "file"):
            os.write(ours, b"1")
            signal.pause()
    os.read(ready, 1)
    with held(tmp_path / "lock") as mine:
        assert not mine
    write_text(tmp_path / "file", "ours")
    assert len(list(tmp_path.glob(".file.*"))) == 1, "a draft whose process lives stays"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with held(tmp_path / "lock") as mine:
        assert mine
    write_text(tmp_path / "file", "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lock"], "and is gone when it does not"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file or directory"), writing(tmp_path / "absent"):
        pass
