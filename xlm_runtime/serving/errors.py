"""Errors as HTTP has them: a status, a kind, a message."""

from __future__ import annotations

from typing import NamedTuple

from xlm_runtime.errors import BundleError, EngineError, InputError, OverloadedError, XLMError

RETRY_AFTER_S = 1
"""When a client that found the queue full may come again."""


class RefusedError(XLMError):
    """A request that is not answered, for what the server allows.

    Args:
        status: of HTTP.
        kind: in one word, see `Failure`.
        message: what is wrong, what was expected.
    """

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind


class Failure(NamedTuple):
    """An error for a client.

    Attributes:
        status: of HTTP.
        kind: in one word; Text Generation Inference's where it has one.
        message: what is wrong.
    """

    status: int
    kind: str
    message: str

    def headers(self) -> dict[str, str]:
        """What goes with the status."""
        known = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": str(RETRY_AFTER_S)}}
        return known.get(self.status, {})

    def body(self) -> dict[str, str]:
        """`error` as both protocols have it, and Text Generation Inference's `error_type`."""
        return {"error": self.message, "error_type": self.kind}


_FAILURES: dict[type[Exception], tuple[int, str]] = {
    InputError: (400, "validation"),
    OverloadedError: (429, "overloaded"),
    EngineError: (503, "engine"),
    BundleError: (503, "engine"),
    MemoryError: (503, "engine"),
}


def failure_of(error: Exception) -> Failure:
    """What a client is told of an error; nothing but its class where it is none of ours."""
    if isinstance(error, RefusedError):
        return Failure(error.status, error.kind, str(error))
    for kind, (status, name) in _FAILURES.items():
        if isinstance(error, kind):
            return Failure(status, name, str(error) or type(error).__name__)
    return Failure(500, "internal", f"The server failed ({type(error).__name__}); its log says where.")
