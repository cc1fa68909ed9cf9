"""The campaign on the server: malformed requests, clients that hang, a full queue, a replica killed.

`pytest -m campaign -rP tests/robustness/test_serving.py` prints the counts that `docs/reliability.md` keeps. Servers
are processes of their own; the one with Ray is in the environment of `make test-scale`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.conftest import Bundles
from tests.paths import ROOT
from tests.robustness.requests import Client, Found, ask_all, hugging_face, mixed, right
from tests.scale.tritonserver import PYTHON
from xlm_runtime import pipeline

pytestmark = pytest.mark.campaign
TASK = "text-classification"
TEXTS = [f"{first} {second}." for first in ("The old town", "Ein Haus", "Маяк", "Une ville") for second in "abcdefghij"]
SERVERS = [
    pytest.param((sys.executable, ("--in-process",)), id="in-process"),
    pytest.param(
        (str(PYTHON), ("--replicas", "2", "--threads", "1")),
        id="ray",
        marks=pytest.mark.skipif(not PYTHON.is_file(), reason="`make test-scale` makes the environment"),
    ),
]
Command = tuple[str, Sequence[str]]


@dataclass
class Server:
    """A server that is ready."""

    process: psutil.Process
    port: int
    labels: dict[str, str]

    def ask(self, requests: Sequence[object], clients: int = 16) -> Found:
        return asyncio.run(ask_all(self.port, requests, clients, self.labels))  # type: ignore[arg-type]

    def megabytes(self) -> float:
        """Of all its processes, shared pages once in each."""
        return sum(each.memory_info().rss for each in (self.process, *self.process.children(recursive=True))) / 1e6

    def replicas(self) -> list[psutil.Process]:
        return [each for each in self.process.children(recursive=True) if "ServeReplica" in " ".join(each.cmdline())]


@contextlib.contextmanager
def running(command: Command, bundle: Path, log: Path, *options: str) -> Iterator[Server]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    python, way = command
    words = [python, "-m", "xlm_runtime", "serve", f"served={bundle}", "--port", str(port), *way, *options]
    words += ["--log-file", str(log.with_suffix(".jsonl"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with pipeline(TASK, bundle) as pipe:
        labels = {text: pipe(text)["label"] for text in TEXTS}
    with log.open("wb") as output:
        process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(600):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError, urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5).close()
                break
            time.sleep(0.2)
        yield Server(psutil.Process(process.pid), port, labels)
    except BaseException:
        print(log.read_text(encoding="utf-8")[-4000:])
        raise
    finally:
        process.terminate()
        process.wait(120)


@pytest.mark.slow(seconds=100)
@pytest.mark.parametrize("command", SERVERS)
def test_a_tenth_of_ten_thousand_requests_is_malformed(command: Command, bundles: Bundles, tmp_path: Path) -> None:
    with running(command, bundles(TASK), tmp_path / "log") as server:
        server.ask(list(mixed(500, TEXTS, 0.1, seed=1)))
        before = server.megabytes()
        found = server.ask(list(mixed(10_000, TEXTS, 0.1, seed=0)))
        after = server.megabytes()
    print(found.table())
    print(f"{before:.0f} MB after 500 requests, {after:.0f} MB after 10,500")
    assert found.wrong == []
    lines = map(json.loads, (tmp_path / "log.jsonl").read_text(encoding="utf-8").splitlines())
    errors = [line for line in lines if line["event"] == "error"]
    assert errors == []


HANGING = {
    "says nothing": b"",
    "stops in the head": b"POST /models/served HTTP/1.1\r\nHost: localhost\r\nConte",
    "stops in the body": hugging_face({"inputs": "The old town a."})[:-10],
    "asks and does not read": hugging_face({"inputs": ["The old town."] * 200}) * 200,
}


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("command", SERVERS)
def test_clients_that_hang_hold_up_nobody(command: Command, bundles: Bundles, tmp_path: Path) -> None:
    with running(command, bundles(TASK), tmp_path / "log") as server, contextlib.ExitStack() as stack:
        hanging: list[tuple[str, socket.socket]] = []
        for kind, data in HANGING.items():
            for _ in range(50 if kind != "asks and does not read" else 2):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                client.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    client.send(data)
                hanging.append((kind, client))
        found = server.ask([right(TEXTS[i % len(TEXTS)], i % 2) for i in range(1000)])
        time.sleep(40)
        open_still = Counter(kind for kind, client in hanging if is_open(client))
    print(f"{len(hanging)} clients hang\n{found.table()}")
    print(f"40 s later their connections that the server holds are {dict(open_still)}")
    assert found.wrong == []
    assert {status for _, status in found.counts} == {"200"}


def is_open(client: socket.socket) -> bool:
    """Whether the other side has not hung up, once what it sent is read."""
    try:
        while client.recv(1 << 20):
            pass
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize("command", SERVERS)
def test_a_full_queue_refuses_and_goes_on(command: Command, bundles: Bundles, tmp_path: Path) -> None:
    async def flood(port: int) -> Counter[tuple[int | None, bool]]:
        async def one(i: int) -> tuple[int | None, bool]:
            client = Client(port)
            status, body = await client.ask(right(TEXTS[i % len(TEXTS)], 0).data)
            return status, b"max_queue" in body

        return Counter(await asyncio.gather(*map(one, range(1000))))

    with running(command, bundles(TASK), tmp_path / "log", "--max-queue", "4") as server:
        counts = asyncio.run(flood(server.port))
        after = server.ask([right(text, 0) for text in TEXTS], clients=2)
    print(f"1,000 at once, 4 may wait: {dict(counts)}; then {after.table()}")
    assert counts.keys() == {(200, False), (429, True)}
    assert sum(counts.values()) == 1000
    assert after.wrong == []


@pytest.mark.slow(seconds=100)
@pytest.mark.parametrize("command", SERVERS[1:])
def test_a_replica_that_is_killed_is_replaced(command: Command, bundles: Bundles, tmp_path: Path) -> None:
    async def load(server: Server) -> Found:
        """Requests that go on while a replica is killed and until another has come."""
        replicas = server.replicas()
        assert len(replicas) == 2
        asking = [right(TEXTS[i % len(TEXTS)], i % 2) for i in range(4000)]
        task = asyncio.create_task(ask_all(server.port, asking, 8, server.labels))
        await asyncio.sleep(1)
        replicas[0].send_signal(signal.SIGKILL)
        return await task

    with running(command, bundles(TASK), tmp_path / "log") as server:
        found = asyncio.run(load(server))
        end = time.monotonic() + 120
        while len(server.replicas()) < 2 and time.monotonic() < end:
            time.sleep(0.5)
        time.sleep(5)  # until it has opened the bundle, too
        after = server.ask([right(text, 0) for text in TEXTS * 5])
    print(f"a replica killed\n{found.table()}\nthen, with another in its place\n{after.table()}")
    answered = sum(count for (_, status), count in found.counts.items() if status == "200")
    lost = sum(found.counts.values()) - answered
    assert lost <= 100  # those that it had
    assert sum(found.counts.values()) == 4000
    assert after.wrong == []
