"""The other end of `worker.py`: starts a contender's process and asks it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class ContenderError(Exception):
    """A contender that could not start, failed on a call, took too long, or died."""


class Worker:
    """One contender in a process of its own.

    Args:
        kind, options: the module of `benchmarks.contenders` and what its `open_model` gets.
        threads, cpus: threads of a call, and the CPUs that the process stays on.
        log: file that takes what the contender's libraries print.
        timeout: seconds that one answer may take.

    Raises:
        ContenderError: it could not start.
    """

    def __init__(
        self, kind: str, options: dict[str, Any], *, threads: int, cpus: list[int], log: Path, timeout: float
    ) -> None:
        self._timeout = timeout
        spec = {"kind": kind, "options": options, "threads": threads, "cpus": cpus}
        number = str(threads)
        limits = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), number)
        environment = os.environ | limits | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        with log.open("a", encoding="utf-8") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", json.dumps(spec)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        try:
            self.started = self._read()
        except ContenderError:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Send a request, wait for its answer.

        Raises:
            ContenderError: it failed, died or took longer than the timeout; after the latter two it is gone.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ContenderError(self._death()) from error
        return self._read()

    def close(self) -> None:
        """End the process; one that does not end by itself within seconds is killed."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], self._timeout)
        if not ready:
            self._process.kill()
            raise ContenderError(f"no answer within {self._timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ContenderError(self._death())
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ContenderError(message["error"])
        return message

    def _death(self) -> str:
        status = self._process.wait()
        return f"the process ended with status {status}" + (" (out of memory?)" if status == -9 else "")
