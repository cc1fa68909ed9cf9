"""The tritonserver of nvidia-pytriton's wheel, in an environment of its own (`make test-scale`)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.paths import ROOT

PYTHON = ROOT / "build" / "scale" / "bin" / "python"
_SECONDS = 120


@dataclass(frozen=True)
class Addresses:
    """Where a server listens: host and port of each protocol."""

    http: str
    grpc: str
    metrics: str


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[Addresses]:
    """A server of a repository, from when it is ready.

    Args:
        folder: for the backends and the log.

    Raises:
        RuntimeError: it ended, or is not ready in time; the message is its log.
    """
    (packages,) = (PYTHON.parents[1] / "lib").glob("python3.*/site-packages")
    triton = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    backends = folder / "backends"
    shutil.copytree(triton / "backends" / "python", backends / "python")
    shutil.copy2(triton / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    addresses = Addresses(*(f"127.0.0.1:{port}" for port in free_ports(3)))
    command = [triton / "bin" / "tritonserver", "--model-repository", repository, "--backend-directory", backends]
    for name in ("http", "grpc", "metrics"):
        host, port = getattr(addresses, name).split(":")
        command += [f"--{name}-address", host, f"--{name}-port", port]
    environment = {
        **os.environ,
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",  # the stub has the packages of the first python3
        "LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"),  # of the stub, which stands elsewhere now
    }
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(list(map(str, command)), env=environment, stdout=output, stderr=output)
    try:
        _wait(server, addresses, log)
        yield addresses
    finally:
        server.terminate()
        if server.wait(timeout=60) != 0:
            raise RuntimeError(f"tritonserver ended with {server.returncode}\n{log.read_text()[-5000:]}")


def _wait(server: subprocess.Popen[bytes], addresses: Addresses, log: Path) -> None:
    end = time.monotonic() + _SECONDS
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://{addresses.http}/v2/health/ready", timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise RuntimeError(f"tritonserver is not ready\n{log.read_text()[-5000:]}")


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports
