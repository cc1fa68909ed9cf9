"""Log lines as JSON objects. None holds a text, an answer, a token or an error's message, which may quote a text."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from traceback import extract_tb
from typing import Any

_LOGGER = logging.getLogger("xlm_runtime.serving")


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        return json.dumps(
            {"time": time, "level": record.levelname.lower(), "event": record.getMessage()} | record.__dict__["fields"]
        )


def start_logging(path: str | None) -> None:
    """Write log lines to a file, or to standard error."""
    # Ray Serve puts a logger of its own in the place of sys.stderr
    handler = logging.StreamHandler(sys.__stderr__) if path is None else logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_JsonLines())
    _LOGGER.handlers[:] = [handler]
    _LOGGER.propagate = False
    _LOGGER.setLevel(logging.INFO)


def log_event(event: str, **fields: Any) -> None:
    """A line about what happened."""
    _LOGGER.info(event, extra={"fields": fields})


def log_error(error: BaseException, request: str) -> None:
    """A line about an error that is none of a client's: its class and where it was raised."""
    places = [f"{frame.filename}:{frame.lineno}" for frame in extract_tb(error.__traceback__)]
    _LOGGER.error("error", extra={"fields": {"id": request, "error": type(error).__name__, "places": places[-8:]}})
