"""Clients of an HTTP server, in a process of their own: `python -m benchmarks.serving_load < JOB`.

They speak HTTP/1.1 over kept-alive connections on asyncio's bare transports, since they share the machine's cores with
the server: a request costs them a tenth of a millisecond or so, and what it did cost is in the answer.

JOB: {"host": …, "port": …, "path": …, "bodies": [each request's JSON], "seconds": S, "limit": most seconds}, and either

- "clients": N (closed loop): each asks for the next body as soon as it has the answer to the one before. The first
  answer of each is not counted, and each gives two more at least.
- "rate": R, "seed": … (open loop): R requests a second on average, at random times (a Poisson process) that no answer
  delays; what waits for an answer waits on a connection of its own. Latencies count from the time that was planned.

It prints {"requests_per_second": answers of status 200, "latencies": ms of each, "statuses": {status: how many},
"unanswered": how many after the limit, "cpu_ms": the clients' CPU time a request, "answers": {number of a body: the
last answer of status 200}}.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

CONNECTIONS = 2000  # of an open loop: more wait for an answer than any server should let wait


class Connection(asyncio.Protocol):
    """One kept-alive connection, with one request on its way at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, bytes]]:
        """Status and body; ConnectionError where the server hangs up."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport.is_closing():
            self._answer.set_exception(ConnectionError("the server closed the connection"))
        self._transport.write(request)
        return self._answer

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._take(ended=False)

    def connection_lost(self, error: Exception | None) -> None:
        self._take(ended=True)
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def _take(self, ended: bool) -> None:
        """Give the answer to who waits for it, where it is whole."""
        head, found, rest = self._received.partition(b"\r\n\r\n")
        if not found or self._answer is None or self._answer.done():
            return
        length = content_length(head)
        if length is None:  # in chunks, or until the connection ends
            length = len(rest) if ended or rest.endswith(b"\r\n0\r\n\r\n") else len(rest) + 1
        if len(rest) >= length:
            self._received = rest[length:]
            self._answer.set_result((int(head[9:12]), rest[:length]))

    def is_closing(self) -> bool:
        return bool(self._transport.is_closing())

    def close(self) -> None:
        self._transport.close()


def content_length(head: bytes) -> int | None:
    """What a head says of the body's length."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return None


@dataclass
class Tally:
    """What came back."""

    requests: Sequence[bytes]
    times: list[tuple[float, float]] = field(default_factory=list)  # of status 200: seconds, when it came
    statuses: Counter[str] = field(default_factory=Counter)
    answers: dict[int, bytes] = field(default_factory=dict)
    unanswered: int = 0

    async def ask(self, connection: Connection, number: int, since: float) -> None:
        """Ask for a body, and note what comes."""
        number %= len(self.requests)
        self.unanswered += 1
        try:
            status, body = await connection.ask(self.requests[number])
        except ConnectionError:
            self.unanswered -= 1
            self.statuses["closed"] += 1
            raise
        now = time.perf_counter()
        self.unanswered -= 1
        self.statuses[str(status)] += 1
        if status == 200:
            self.times.append((now - since, now))
            self.answers[number] = body

    def result(self, begun: float, ended: float, cpu: float) -> dict[str, Any]:
        counted = [took for took, when in self.times if begun < when <= ended]
        asked = max(1, sum(self.statuses.values()))
        return {
            "requests_per_second": len(counted) / (ended - begun),
            "latencies": [round(took * 1000, 3) for took in counted],
            "statuses": dict(self.statuses),
            "unanswered": self.unanswered,
            "cpu_ms": cpu * 1000 / asked,
            "answers": {number: body.decode() for number, body in sorted(self.answers.items())},
        }


def encode(job: dict[str, Any]) -> list[bytes]:
    """Each body as a whole request."""
    head = f"POST {job['path']} HTTP/1.1\r\nHost: {job['host']}:{job['port']}\r\nContent-Type: application/json\r\n"
    bodies = [json.dumps(body, ensure_ascii=False).encode() for body in job["bodies"]]
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


async def closed_loop(job: dict[str, Any]) -> dict[str, Any]:
    """So many clients, each with one request at a time."""
    count, seconds, limit = job["clients"], job["seconds"], job["limit"]
    tally = Tally(encode(job))
    connections = [await connect(job) for _ in range(count)]
    start, cpu = time.perf_counter(), time.process_time()
    warm: list[float] = []  # when each client had its first answer
    thrice: list[float] = []  # when each had its third
    end = asyncio.Event()
    ended = 0.0

    async def client(number: int) -> None:
        nonlocal ended
        for turn in itertools.count(1):
            if end.is_set():
                return
            await tally.ask(connections[number], number + (turn - 1) * count, time.perf_counter())
            now = time.perf_counter()
            if turn == 1:
                warm.append(now)
            elif turn == 3:
                thrice.append(now)
            enough = len(thrice) == count and now - warm[-1] >= seconds
            if (enough or now - start >= limit) and not end.is_set():
                ended = now
                end.set()

    await asyncio.gather(*map(client, range(count)))
    begun = warm[-1] if len(thrice) == count else start
    for connection in connections:
        connection.close()
    return tally.result(begun, ended, time.process_time() - cpu)


async def open_loop(job: dict[str, Any]) -> dict[str, Any]:
    """Requests at times of their own."""
    tally = Tally(encode(job))
    free = [await connect(job) for _ in range(32)]
    opened = len(free)
    drawn = random.Random(job["seed"])
    tasks: set[asyncio.Task[None]] = set()

    async def request(number: int, planned: float) -> None:
        nonlocal opened
        if not free and opened < CONNECTIONS:
            opened += 1
            free.append(await connect(job))
        if not free:
            tally.statuses["no connection"] += 1
            return
        connection = free.pop()
        try:
            await tally.ask(connection, number, planned)
            free.append(connection)
        except ConnectionError:
            opened -= 1

    start = planned = time.perf_counter()
    cpu = time.process_time()
    for number in itertools.count():
        planned += drawn.expovariate(job["rate"])
        if planned - start >= job["seconds"]:
            break
        wait = planned - time.perf_counter()
        await asyncio.sleep(max(0.0, wait))  # 0 where it is late: answers are read in between
        task = asyncio.create_task(request(number, planned))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.1, job["limit"] - (time.perf_counter() - start)))
    for task in tasks:
        task.cancel()
    for connection in free:
        connection.close()
    last = max((when for _, when in tally.times), default=start)
    return tally.result(start, max(last, start + job["seconds"]), time.process_time() - cpu)


async def connect(job: dict[str, Any]) -> Connection:
    _, connection = await asyncio.get_running_loop().create_connection(Connection, job["host"], job["port"])
    return connection


def main() -> None:
    job = json.load(sys.stdin)
    loop = closed_loop if "clients" in job else open_loop
    print(json.dumps(asyncio.run(loop(job))))


if __name__ == "__main__":
    main()
