"""What stands before the application: the bearer token, and behind each request a log line and its figures."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from uuid import uuid4

from xlm_runtime.serving.errors import Failure
from xlm_runtime.serving.logs import log_event
from xlm_runtime.serving.metrics import Metrics

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health", "/v2/health/live", "/v2/health/ready")
"""Of probes, which have no token; they tell nothing else."""

_NO_TOKEN = Failure(401, "unauthorized", "The bearer token is missing or wrong; send `Authorization: Bearer TOKEN`.")


class Guard:
    """Middleware of an ASGI application.

    Args:
        app: what answers. It puts `model`, `protocol` and `texts` into the state of its requests.
        token: of `ServingOptions`.
        metrics: that requests are counted in.
    """

    def __init__(self, app: App, token: str | None, metrics: Metrics) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope["state"] = {**scope.get("state", {}), "id": uuid4().hex[:16]}
        begun, status = time.perf_counter(), 499  # that of a client that went away, until there is another

        async def noting(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", state["id"].encode())]}
            await send(message)

        try:
            if scope["path"] in OPEN_PATHS or self._is_known(scope):
                await self._app(scope, receive, noting)
            else:
                await _refuse(noting)
        finally:
            seconds = time.perf_counter() - begun
            model, protocol = state.get("model", "-"), state.get("protocol", "-")
            if scope["path"] not in OPEN_PATHS:
                self._metrics.request(model, protocol, status, seconds)
                log_event(
                    "request",
                    id=state["id"],
                    method=scope["method"],
                    model=model,
                    protocol=protocol,
                    status=status,
                    kind=state.get("kind"),
                    texts=state.get("texts"),
                    ms=round(seconds * 1000, 2),
                )

    def _is_known(self, scope: Scope) -> bool:
        """Whether the request has the token. The comparison takes as long for a wrong one as for the right one."""
        if self._token is None:
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"application/json")]
    headers += [(name.lower().encode(), value.encode()) for name, value in _NO_TOKEN.headers().items()]
    await send({"type": "http.response.start", "status": _NO_TOKEN.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(_NO_TOKEN.body()).encode()})
