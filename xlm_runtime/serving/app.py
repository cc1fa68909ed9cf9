"""The ASGI application: routes to opened models, in two protocols."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from xlm_runtime.jobs.items import to_json
from xlm_runtime.serving import hugging_face, open_inference, schemas
from xlm_runtime.serving.errors import Failure, RefusedError, failure_of
from xlm_runtime.serving.events import events
from xlm_runtime.serving.guard import Guard
from xlm_runtime.serving.logs import log_error, log_event
from xlm_runtime.serving.metrics import Metrics
from xlm_runtime.serving.models import ServedModel
from xlm_runtime.serving.options import ServingOptions
from xlm_runtime.serving.requests import read_body, read_object
from xlm_runtime.wire.texts import as_json, take_on_error


def make_app(models: Mapping[str, ServedModel], options: ServingOptions) -> FastAPI:
    """The application for opened models, which it closes when it ends.

    Args:
        models: by name.
        options: limits and the token.
    """
    metrics = Metrics()
    for name, model in models.items():
        model.pipe.observe = partial(metrics.batch, name)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        log_event("ready", models=list(models))
        yield
        for model in models.values():
            model.pipe.close()

    app = FastAPI(
        title="xlm-runtime", description=schemas.description(models), version=schemas.version(), lifespan=lifespan
    )
    app.add_middleware(Guard, token=options.token, metrics=metrics)
    app.add_exception_handler(HTTPException, _http_error)  # unknown paths and methods
    app.add_exception_handler(Exception, _error)  # what nobody expected
    routes = Routes(models, options, metrics)
    for add, path, handler, extra in routes.table():
        app.add_api_route(path, handler, methods=[add], openapi_extra=extra, response_model=None)
    return app


class Routes:
    """The handlers.

    Args:
        models, options: see `make_app`.
        metrics: of the application.
    """

    def __init__(self, models: Mapping[str, ServedModel], options: ServingOptions, metrics: Metrics) -> None:
        self._models = models
        self._options = options
        self._metrics = metrics

    def table(self) -> list[tuple[str, str, Any, dict[str, Any] | None]]:
        """Method, path, handler and what /docs shows of its body."""
        rows: list[tuple[str, str, Any, dict[str, Any] | None]] = [
            ("POST", "/models/{name}", self.answer, schemas.HUGGING_FACE),
            ("POST", "/v2/models/{name}/infer", self.infer, schemas.OPEN_INFERENCE),
            ("GET", "/v2", self.server, None),
            ("GET", "/v2/health/live", self.live, None),
            ("GET", "/v2/health/ready", self.ready, None),
            ("GET", "/v2/models/{name}", self.model, None),
            ("GET", "/v2/models/{name}/ready", self.model_ready, None),
            ("GET", "/health", self.ready, None),
            ("GET", "/metrics", self.metrics, None),
        ]
        return [*rows, ("POST", "/", self.answer_only, schemas.HUGGING_FACE)] if len(self._models) == 1 else rows

    async def answer(self, name: str, request: Request) -> Response:
        """Answer texts, in Hugging Face's inference JSON."""
        request.state.protocol = "hugging-face"
        try:
            model = self._find(name, request)
            asked = hugging_face.read_request(model.task, await self._body(request))
            arguments = model.arguments(asked.parameters)
            if asked.stream:
                take_on_error(arguments)
                pieces = await model.stream(asked.inputs, arguments)
                self._count(model, 1, request)
                return StreamingResponse(events(pieces, asked), media_type="text/event-stream")
            answer = await model.answer(asked.inputs, {**arguments, "on_error": take_on_error(arguments)})
            shaped = hugging_face.shape_answer(model.task, asked, answer)
            self._count(model, len(asked.inputs) if isinstance(asked.inputs, list) else 1, request)
            return Response(to_json(shaped), media_type="application/json")
        except Exception as error:
            return await _error(request, error)

    async def answer_only(self, request: Request) -> Response:
        """Answer texts with the only model, in Hugging Face's inference JSON."""
        (name,) = self._models
        return await self.answer(name, request)

    async def infer(self, name: str, request: Request) -> Response:
        """Answer texts, in the Open Inference Protocol, version 2."""
        request.state.protocol = "open-inference"
        try:
            model = self._find(name, request)
            asked = open_inference.read_request(await self._body(request))
            arguments = model.arguments(asked.parameters)
            on_error = take_on_error(arguments)
            answers = await model.answer(asked.texts, {**arguments, "on_error": "return"})
            written = as_json(answers, on_error)
            self._count(model, len(written), request)
            return JSONResponse(open_inference.response(name, asked, written))
        except Exception as error:
            return await _error(request, error)

    async def server(self) -> Any:
        """What the server is."""
        return open_inference.server_metadata()

    async def live(self) -> Any:
        """Whether the server answers at all."""
        return {"live": True}

    async def ready(self) -> Response:
        """Whether every model can answer."""
        ready = all(model.is_ready() for model in self._models.values())
        return JSONResponse({"live": True, "ready": ready}, 200 if ready else 503)

    async def model(self, name: str, request: Request) -> Response:
        """What a model takes and gives."""
        try:
            return JSONResponse(open_inference.model_metadata(name, self._find(name, request).task))
        except Exception as error:
            return await _error(request, error)

    async def model_ready(self, name: str, request: Request) -> Response:
        """Whether a model can answer."""
        try:
            ready = self._find(name, request).is_ready()
            return JSONResponse({"name": name, "ready": ready}, 200 if ready else 503)
        except Exception as error:
            return await _error(request, error)

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _find(self, name: str, request: Request) -> ServedModel:
        if name not in self._models:
            raise RefusedError(404, "not_found", f"There is no model '{name}'; served are {', '.join(self._models)}.")
        request.state.model = name
        return self._models[name]

    async def _body(self, request: Request) -> dict[str, Any]:
        seconds = self._options.timeout_s
        try:
            body = await asyncio.wait_for(read_body(request.stream(), self._options.max_body_bytes), seconds)
        except asyncio.TimeoutError:
            about = f"The body did not come within {seconds:g} seconds."
            raise RefusedError(408, "timeout", about) from None
        return read_object(body)

    def _count(self, model: ServedModel, texts: int, request: Request) -> None:
        self._metrics.texts(model.name, texts)
        request.state.texts = texts


async def _error(request: Request, error: Exception) -> Response:
    """What a client is told of an error. One that is the server's own goes to the log."""
    failure = failure_of(error)
    request.state.kind = failure.kind
    if failure.status >= 500 and failure.kind != "timeout":
        log_error(error, request.state.id)
    return JSONResponse(failure.body(), failure.status, failure.headers())


async def _http_error(request: Request, error: Exception) -> Response:
    found = cast("HTTPException", error)  # the kind that it is registered for
    return JSONResponse(Failure(found.status_code, "not_found", str(found.detail)).body(), found.status_code)
