"""The ASGI application in this process, on uvicorn: one replica without Ray, for a small image or a single machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any

from xlm_runtime.errors import MissingExtraError
from xlm_runtime.serving.options import Served, ServingOptions


def serve_here(
    served: Sequence[Served], options: ServingOptions, host: str, port: int, started: Callable[[], object]
) -> None:
    """Serve until Ctrl-C or SIGTERM; requests that are under way then are answered.

    Args:
        served, options: see `application` of the deployment.
        host, port: where to listen.
        started: called when clients can connect.

    Raises:
        MissingExtraError: uvicorn or FastAPI is not installed.
        XLMError: see `pipeline`.
    """
    uvicorn = _import_uvicorn()
    from xlm_runtime.serving.app import make_app
    from xlm_runtime.serving.logs import start_logging
    from xlm_runtime.serving.models import open_models

    start_logging(options.log_file)
    config = uvicorn.Config(
        make_app(open_models(served, options), options),
        log_level="critical",  # the application has a log of its own, without texts
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(options.timeout_s) + 1,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=config.backlog) as listener:
        started()
        uvicorn.Server(config).run(sockets=[listener])


def _import_uvicorn() -> Any:
    try:
        import fastapi  # noqa: F401 - what the application needs
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise MissingExtraError(str(error.name), "http", "xlm-runtime serve --in-process") from error
    return uvicorn
