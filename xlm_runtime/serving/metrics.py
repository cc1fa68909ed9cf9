"""Figures for Prometheus, by model."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from xlm_runtime.model.batcher import BatchReport

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which prometheus_client sums up the processes of a machine, here replicas."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """The counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "xlm_requests", "Requests by HTTP status.", ("model", "protocol", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "xlm_request_seconds",
            "From a request to the end of its answer.",
            ("model", "protocol"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._texts = Counter("xlm_texts", "Inputs that were answered.", ("model",), registry=self._registry)
        self._queue = Histogram(
            "xlm_queue_seconds",
            "From a request's submission until its first batch is computed.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._tokens = Histogram(
            "xlm_batch_tokens", "Tokens of a batch.", ("model",), buckets=_TOKENS, registry=self._registry
        )
        self._rows = Histogram(
            "xlm_batch_rows",
            "Rows of a batch.",
            ("model",),
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self._registry,
        )

    def request(self, model: str, protocol: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(model, protocol, str(status)).inc()
        self._seconds.labels(model, protocol).observe(seconds)

    def texts(self, model: str, count: int) -> None:
        """So many inputs were answered."""
        self._texts.labels(model).inc(count)

    def batch(self, model: str, report: BatchReport) -> None:
        """A batch is computed."""
        self._tokens.labels(model).observe(report.tokens)
        self._rows.labels(model).observe(report.rows)
        for seconds in report.waited:
            self._queue.labels(model).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format, those of all replicas on this machine where `FOLDER` says where they are."""
        registry = self._registry
        if FOLDER in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
