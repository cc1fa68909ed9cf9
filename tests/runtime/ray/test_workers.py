"""Shares of CPUs, and what is refused before Ray is asked."""

from __future__ import annotations

import importlib.util
import socket

import pytest

from xlm_runtime.errors import EngineError, InputError, MissingExtraError
from xlm_runtime.ray.workers import Workers, connected, share


@pytest.mark.parametrize(
    ("cpus", "workers", "threads"),
    [([2], 1, 2), ([2], 2, 1), ([8, 8], 3, 4), ([8, 8], 2, 8), ([4, 16], 2, 8), ([0, 6], 4, 1), ([3.5, 1], 2, 1)],
)
def test_each_worker_has_its_share_of_one_machine(cpus: list[float], workers: int, threads: int) -> None:
    assert share(cpus, workers) == threads
    assert Workers(workers).placed(cpus) == Workers(workers, threads)
    assert Workers(workers, 64).placed(cpus).threads == 64  # who says it knows of machines to come
    assert Workers(workers, gpus=0.5).placed(cpus).threads is None


def test_what_is_refused() -> None:
    for cpus in ([2], [], [0, 2.9]):
        with pytest.raises(InputError, match=rf"3 workers were asked for, and Ray has {int(sum(cpus))} CPUs"):
            share(cpus, 3)
    for workers in ({"count": 0}, {"gpus": -1.0}, {"gpus": float("nan")}, {"threads": 0}):
        with pytest.raises(InputError, match="expected a"):
            Workers(**workers)  # type: ignore[arg-type]


def test_addresses() -> None:
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(MissingExtraError, match=r"pip install 'xlm-onnx\[ray\]'"), connected("auto"):
            pass
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(EngineError, match="cannot be reached"), connected(f"127.0.0.1:{port}"):
        pass
    for address in ("ray://127.0.0.1:10001", "cluster"):
        with pytest.raises(InputError, match="expected host:port"), connected(address):
            pass
