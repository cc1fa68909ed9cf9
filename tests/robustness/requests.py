"""Requests to a server, right ones and malformed ones, and a client that survives what comes back."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.serving_load import Connection

JSON = "application/json"


@dataclass(frozen=True)
class Asked:
    """A request as bytes, and what may come of it.

    Args:
        kind: what it is.
        data: head and body.
        statuses: that it may get; none where the server may hang up.
        text: whose label is expected, where the request is right.
    """

    kind: str
    data: bytes
    statuses: Sequence[int] = (200,)
    text: str | None = None


def http(path: str, body: bytes, method: str = "POST") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def hugging_face(body: Any) -> bytes:
    return http("/models/served", body if isinstance(body, bytes) else json.dumps(body).encode())


def open_inference(body: Any) -> bytes:
    return http("/v2/models/served/infer", body if isinstance(body, bytes) else json.dumps(body).encode())


def tensor(*texts: Any, shape: Any = None, datatype: str = "BYTES", name: str = "text") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape or [len(texts)], "data": list(texts)}


def right(text: str, protocol: int) -> Asked:
    if protocol:
        return Asked("right, Open Inference", open_inference({"inputs": [tensor(text)]}), text=text)
    return Asked("right, Hugging Face", hugging_face({"inputs": text}), text=text)


BAD = (400, 422)
MALFORMED: tuple[Asked, ...] = (
    Asked("no JSON", hugging_face(b"{'inputs': 1"), BAD),
    Asked("no body", hugging_face(b""), BAD),
    Asked("no UTF-8", hugging_face(b'{"inputs": "\xff\xfe"}'), BAD),
    Asked("nested 50,000 deep", hugging_face(b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"), BAD),
    Asked("a list in place of an object", hugging_face([1, 2]), BAD),
    Asked("no inputs", hugging_face({"parameters": {}}), BAD),
    Asked("inputs of another type", hugging_face({"inputs": 7}), BAD),
    Asked("an empty text", hugging_face({"inputs": " "}), BAD),
    Asked("half a surrogate pair", hugging_face(b'{"inputs": "\\ud800"}'), BAD),
    Asked("an unknown parameter", hugging_face({"inputs": "a", "parameters": {"topk": 1}}), BAD),
    Asked("a parameter out of range", hugging_face({"inputs": "a", "parameters": {"top_k": -1}}), BAD),
    Asked("a parameter of another type", hugging_face({"inputs": "a", "parameters": {"top_k": [1]}}), BAD),
    Asked("stream where there is none", hugging_face({"inputs": "a", "stream": True}), BAD),
    Asked("too many texts", hugging_face({"inputs": ["a"] * 300}), (413,)),
    Asked("too many characters", hugging_face({"inputs": "a " * 60_000}), (413,)),
    Asked("too long for the model", hugging_face({"inputs": "a " * 5_000}), (200, *BAD)),
    Asked("too large a body", hugging_face({"inputs": "a" * 1_100_000}), (413,)),
    Asked("an unknown model", http("/models/other", b'{"inputs": "a"}'), (404,)),
    Asked("an unknown path", http("/v3/models", b"{}"), (404,)),
    Asked("another method", http("/models/served", b"{}", "PUT"), (405,)),
    Asked("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", (400,)),
    Asked("two tensors", open_inference({"inputs": [tensor("a"), tensor("b")]}), BAD),
    Asked("a tensor of another name", open_inference({"inputs": [tensor("a", name="texts")]}), BAD),
    Asked("a tensor of another type", open_inference({"inputs": [tensor(1.0, datatype="FP32")]}), BAD),
    Asked("a shape that does not fit", open_inference({"inputs": [tensor("a", shape=[3])]}), BAD),
    Asked("a negative shape", open_inference({"inputs": [tensor("a", shape=[-1])]}), BAD),
    Asked("null in a tensor", open_inference({"inputs": [tensor(None)]}), BAD),
)


@dataclass
class Found:
    """What came back, by kind of request and status."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def note(self, asked: Asked, status: int | None, body: bytes, labels: dict[str, str]) -> None:
        self.counts[asked.kind, "hung up" if status is None else str(status)] += 1
        if status is not None and status not in asked.statuses:
            self.wrong.append(f"{asked.kind}: {status} {body[:200]!r}")
        elif status == 200 and asked.text is not None and label_of(body) != labels[asked.text]:
            self.wrong.append(f"{asked.kind}: {body[:200]!r} to {asked.text!r}")

    def table(self) -> str:
        width = max(len(kind) for kind, _ in self.counts)
        rows = sorted(self.counts.items())
        return "\n".join(f"{kind:<{width}} {status:>8} {count:>6}" for (kind, status), count in rows)


def label_of(body: bytes) -> str:
    """The best label of an answer in either protocol."""
    answer = json.loads(body)
    if isinstance(answer, dict):
        answer = json.loads(answer["outputs"][0]["data"][0])
    while isinstance(answer, list):
        answer = answer[0]
    return str(answer["label"])


class Client:
    """One connection after the other to a server."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._connection: Connection | None = None

    async def ask(self, data: bytes) -> tuple[int | None, bytes]:
        """Status and body; no status where the server hung up before there was one.

        A server may end a kept-alive connection at any time between two requests, so one that ends at once is asked
        again on a new one, as every client of HTTP does.
        """
        kept = self._connection is not None and not self._connection.is_closing()
        if not kept:
            loop = asyncio.get_running_loop()
            _, self._connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        assert self._connection is not None
        try:
            return await asyncio.wait_for(self._connection.ask(data), 60)
        except ConnectionError:
            self._connection = None
            return await self.ask(data) if kept else (None, b"")


async def ask_all(port: int, requests: Iterable[Asked], clients: int, labels: dict[str, str]) -> Found:
    """Ask by so many clients, each one request after the other."""
    found, rest = Found(), iter(requests)

    async def client() -> None:
        mine = Client(port)
        for asked in rest:
            found.note(asked, *await mine.ask(asked.data), labels)

    await asyncio.gather(*(client() for _ in range(clients)))
    return found


def mixed(count: int, texts: Sequence[str], malformed_share: float, seed: int) -> Iterable[Asked]:
    """So many requests, some of them malformed, in random order."""
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < malformed_share:
            yield rng.choice(MALFORMED)
        else:
            yield right(rng.choice(texts), rng.randrange(2))
