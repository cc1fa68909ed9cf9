"""A server of the paths that the load test asks, which computes nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Stub(ThreadingHTTPServer):
    """Answers a text with its length. It keeps back the first `together` answers until so many are asked for, and
    `refused` gets 429."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, together: int = 1, refused: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.all_here = threading.Barrier(together)
        self.left = together
        self.lock = threading.Lock()
        self.refused = refused

    def wait(self) -> None:
        with self.lock:
            self.left -= 1
            waits = self.left >= 0
        if waits:
            self.all_here.wait(20)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Stub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.wait()
        text = body["inputs"]
        self.reply(429 if text == self.server.refused else 200, [[{"label": str(len(text)), "score": 1.0}]])

    def reply(self, status: int, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def stub(together: int = 1, refused: str | None = None) -> Iterator[Stub]:
    with Stub(together, refused) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
