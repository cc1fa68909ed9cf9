"""Who answers: actors of Ray, each with a share of the CPUs. Ray itself is imported when it is asked for."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from xlm_runtime.errors import EngineError, InputError, MissingExtraError
from xlm_runtime.machine import available_cpus, check_threads

LOCAL = "local"
"""In place of a cluster's address: a Ray of this machine alone, for as long as the work takes."""


@dataclass(frozen=True)
class Workers:
    """How many actors, and what each has.

    Attributes:
        count: of actors.
        threads: that each computes with; None for its share of the cluster's CPUs.
        gpus: of each; a part of one is one that actors share.
    """

    count: int = 1
    threads: int | None = None
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"The number of workers is {self.count}; expected a positive number.")
        if not 0 <= self.gpus < float("inf"):
            raise InputError(f"A worker's GPUs are {self.gpus}; expected a number, 0 for none.")
        check_threads(self.threads)

    def placed(self, cpus: Sequence[float]) -> Workers:
        """The same with their number of threads.

        Args:
            cpus: of each machine of the cluster.

        Raises:
            InputError: there are fewer CPUs than workers.
        """
        if self.threads is not None or self.gpus:
            return self
        return replace(self, threads=share(cpus, self.count))

    def options(self) -> dict[str, Any]:
        """The arguments of `Dataset.map_batches` that say where it computes.

        Of an actor's CPUs one is left to the tasks that read what it answers; with all CPUs taken, these would wait for
        ever.
        """
        pool = require().data.ActorPoolStrategy(size=self.count)
        cpus = max(0.5, (self.threads or 1) - 1)
        return {"compute": pool, "num_cpus": cpus, **({"num_gpus": self.gpus} if self.gpus else {})}


def share(cpus: Sequence[float], workers: int) -> int:
    """The most threads that each of so many workers can have, none of which is on two machines.

    Args:
        cpus: of each machine.

    Raises:
        InputError: there are fewer CPUs than workers.
    """
    for threads in range(int(max(cpus, default=0)), 0, -1):
        if sum(int(each) // threads for each in cpus) >= workers:
            return threads
    raise InputError(
        f"{workers} workers were asked for, and Ray has {sum(map(int, cpus))} CPUs; ask for fewer, or say by threads "
        "how many each computes with."
    )


def require() -> Any:
    """Ray, with Ray Data.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "Answering with the workers of Ray") from error
    return ray


def cluster_cpus() -> list[float]:
    """The CPUs of each machine of the cluster that this process is connected to."""
    return [node["Resources"].get("CPU", 0.0) for node in require().nodes() if node["Alive"]]


@contextmanager
def connected(address: str) -> Iterator[None]:
    """While the block runs this process is connected to a Ray cluster; to the one that it is connected to already,
    where it is.

    Args:
        address: "host:port" of a cluster that this machine belongs to; "auto" for the one that runs here; `LOCAL`.

    Raises:
        MissingExtraError: Ray is not installed.
        InputError: an address of another kind.
        EngineError: there is none at the address.
    """
    ray = require()
    if ray.is_initialized():
        yield
        return
    if address not in (LOCAL, "auto"):
        _check_address(address)
    own = {"num_cpus": available_cpus(), "include_dashboard": False} if address == LOCAL else {}
    handles = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if handles else None
    # What workers say is in Ray's logs, and errors come as errors. Its C++ warns of each pool of actors.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, RuntimeError, ValueError) as error:
        raise EngineError(f"Ray at '{address}' cannot be reached: {error}") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if handles:
            signal.signal(signal.SIGTERM, handler)  # Ray sets its own
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Whether something listens there; Ray would try for ever."""
    host, _, port = address.rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        raise InputError(
            f"Ray's address is '{address}'; expected host:port of a cluster that this machine belongs to, or auto."
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise EngineError(f"Ray at '{address}' cannot be reached: {error}") from error
