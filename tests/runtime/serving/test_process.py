"""`xlm-runtime serve --in-process`: the application in this process, without Ray."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.runtime.answers import same
from xlm_runtime import pipeline
from xlm_runtime.cli.main import main

pytest.importorskip("uvicorn")
COMMAND = (sys.executable, "-m", "xlm_runtime", "serve", "--in-process")


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def test_it_answers_and_ends_with_a_signal(bundles: Bundles, tmp_path: Path) -> None:
    bundle, port, log = bundles("text-classification"), free_port(), tmp_path / "log"
    command = [*COMMAND, f"labels={bundle}", "--port", port, "--log-file", str(log), "--timeout", "2"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        assert f"serving labels (text-classification) at http://127.0.0.1:{port}" in server.stderr.readline()
        url = f"http://127.0.0.1:{port}/models/labels"
        request = urllib.request.Request(url, b'{"inputs": "The old town."}')
        with urllib.request.urlopen(request, timeout=20) as page:
            ((*found,),) = json.load(page)
        with socket.create_connection(("127.0.0.1", int(port)), timeout=20) as hanging:
            hanging.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
            assert hanging.recv(1000).startswith(b"HTTP/1.1 408 ")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    with pipeline("text-classification", bundle) as pipe:
        same(found, pipe("The old town.", top_k=None))
    events = [json.loads(line)["event"] for line in log.read_text(encoding="utf-8").splitlines()]
    assert events == ["ready", "request", "request"]
    assert server.returncode == 143


def test_replicas_are_rays(bundles: Bundles, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--in-process", str(bundles("text-classification")), "--replicas", "2"]) == 1
    assert "--in-process is one replica without Ray" in capsys.readouterr().err
