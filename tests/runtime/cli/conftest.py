"""The command line, run in this process."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from xlm_runtime.cli import main as cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs a command line: exit code, stdout, stderr."""

    def call(*arguments: object, stdin: str | bytes | None = None) -> tuple[int, str, str]:
        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        stream = SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: stdin is None)
        monkeypatch.setattr(sys, "stdin", stream)
        try:
            code = cli.main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return call
