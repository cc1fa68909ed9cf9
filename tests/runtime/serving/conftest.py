"""An application with tiny bundles, asked in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.conftest import Bundles
from xlm_runtime.serving.app import make_app
from xlm_runtime.serving.models import open_models
from xlm_runtime.serving.options import ServingOptions, read_served

TASKS = (
    "feature-extraction",
    "fill-mask",
    "text-generation",
    "text-classification",
    "multiple-choice",
    "token-classification",
    "question-answering",
)

Serve = Callable[..., TestClient]


@pytest.fixture(scope="package")
def serve(bundles: Bundles) -> Iterator[Serve]:
    """A function that serves bundles by their names, with options of `ServingOptions`, and gives a client."""
    with ExitStack() as stack:

        def start(*names: str, task: str | None = None, **options: Any) -> TestClient:
            limits = ServingOptions(threads=1, **options)
            models = open_models(read_served([str(bundles(name)) for name in names], task), limits)
            app = make_app(models, limits)
            return stack.enter_context(TestClient(app, raise_server_exceptions=False))

        yield start


@pytest.fixture(scope="package")
def client(serve: Serve) -> TestClient:
    """Of a server of all tasks, without a token."""
    return serve(*TASKS)
