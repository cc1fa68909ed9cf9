"""`xlm-runtime serve` in the environment of `make test-scale`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.paths import ROOT
from tests.scale.tritonserver import PYTHON, free_ports

SECONDS = 120


class Server:
    """A server that runs, and how it ended: its exit status and what it printed."""

    def __init__(self, process: subprocess.Popen[bytes], url: str, printed: Path) -> None:
        self.process, self.url, self._printed = process, url, printed

    def text(self) -> str:
        return self._printed.read_text(encoding="utf-8")

    def wait(self) -> None:
        """Until it answers."""
        end = time.monotonic() + SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"{self.url}/v2/health/ready", timeout=5):
                    return
            except (OSError, urllib.error.URLError):
                time.sleep(0.2)
        raise RuntimeError(f"the server is not ready\n{self.text()[-5000:]}")

    def interrupt(self) -> int:
        """What Ctrl-C does. The exit status."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(SECONDS)


@contextmanager
def serving(folder: Path, *arguments: Any, **environment: str) -> Iterator[Server]:
    """A server, from when it is ready.

    Args:
        folder: for what it prints.
    """
    (port,) = free_ports(1)
    command = [PYTHON, "-m", "xlm_runtime", "serve", *arguments, "--port", port]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    printed = folder / "printed"
    with printed.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, command)), env=environment, stdout=output, stderr=output, start_new_session=True
        )
    server = Server(process, f"http://127.0.0.1:{port}", printed)
    try:
        server.wait()
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS)
