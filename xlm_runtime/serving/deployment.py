"""The Ray Serve deployment: each replica opens every bundle and runs the ASGI application."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any
from uuid import uuid4

from xlm_runtime.errors import EngineError, InputError, MissingExtraError
from xlm_runtime.machine import available_cpus
from xlm_runtime.serving.options import Served, ServingOptions, read_served

# what Ray reads when it is imported
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is told to anyone unless it was asked for
    "RAY_DISABLE_WORKER_LOG_PREFIX": "1",  # the replicas' lines are JSON
    "RAY_SERVE_LOG_TO_STDERR": "0",  # Serve's own go to files
}
_METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# of the proxy and the replica there is room for, before requests queue in the proxy, which knows no 429 of ours
_ONGOING_BEYOND_QUEUE = 1024


@dataclass(frozen=True)
class Scaling:
    """How many replicas there are, and what each takes.

    Args:
        replicas: at least so many.
        max_replicas: at most so many, as the load asks for; None for always `replicas`.
        target_ongoing_requests: of a replica, above which there are to be more of them.
        cpus_per_replica, gpus_per_replica: what Ray puts aside for each; parts of a GPU can be shared.
    """

    replicas: int = 1
    max_replicas: int | None = None
    target_ongoing_requests: float = 32.0
    cpus_per_replica: float = 1.0
    gpus_per_replica: float = 0.0

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise InputError(f"replicas is {self.replicas}; expected 1 or more.")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise InputError(f"max_replicas is {self.max_replicas}; expected {self.replicas} (replicas) or more.")
        for name, least in (("target_ongoing_requests", 0.0), ("cpus_per_replica", 0.0), ("gpus_per_replica", 0.0)):
            value = getattr(self, name)
            if value < least or (name == "target_ongoing_requests" and value == 0):
                raise InputError(f"{name} is {value}; expected a positive number.")

    @property
    def most(self) -> int:
        """Replicas that there may be."""
        return self.max_replicas or self.replicas


class Replica:
    """What runs in each process of the deployment.

    Args:
        served: the bundles.
        options: how they are served.
    """

    def __init__(self, served: Sequence[Served], options: ServingOptions) -> None:
        # here, so that whoever describes a deployment needs none of it
        from xlm_runtime.serving.logs import start_logging
        from xlm_runtime.serving.models import open_models

        if folder := os.environ.get(_METRICS_FOLDER):
            os.makedirs(folder, exist_ok=True)
        start_logging(options.log_file)
        self._options = options
        self._models = open_models(served, options)

    def __serve_build_asgi_app__(self) -> Any:
        """The name that Ray Serve calls."""
        from xlm_runtime.serving.app import make_app

        return make_app(self._models, self._options)

    def check_health(self) -> None:
        """What Ray Serve asks again and again; where it raises, another replica takes this one's place."""
        for model in self._models.values():
            if not model.is_ready():
                raise EngineError(f"The model '{model.name}' was closed.")


def application(
    served: Sequence[Served],
    options: ServingOptions | None = None,
    scaling: Scaling | None = None,
    metrics_folder: str | None = None,
) -> Any:
    """A Ray Serve application, for `serve.run`.

    Args:
        served: the bundles, see `read_served`. Every node that has a replica reads them under the same path.
        options: by default those of `ServingOptions`, with the CPUs shared among the replicas.
        scaling: by default one replica.
        metrics_folder: where the replicas of a machine keep their figures, so that any of them can tell the sum; by
            default a new one among the temporary files.

    Raises:
        MissingExtraError: Ray Serve is not installed.
    """
    serve = import_serve()
    options, scaling = options or ServingOptions(), scaling or Scaling()
    if options.threads is None and not scaling.gpus_per_replica:
        options = replace(options, threads=max(1, available_cpus() // scaling.most))
    folder = metrics_folder or os.path.join(tempfile.gettempdir(), f"xlm-metrics-{uuid4().hex}")
    how: dict[str, Any] = {"num_replicas": scaling.replicas}
    if scaling.max_replicas is not None:
        how = {
            "autoscaling_config": {
                "min_replicas": scaling.replicas,
                "max_replicas": scaling.max_replicas,
                "target_ongoing_requests": scaling.target_ongoing_requests,
            }
        }
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name="xlm",
        max_ongoing_requests=options.max_queue * len(served) + _ONGOING_BEYOND_QUEUE,
        ray_actor_options={
            "num_cpus": scaling.cpus_per_replica,
            "num_gpus": scaling.gpus_per_replica,
            "runtime_env": {"env_vars": {_METRICS_FOLDER: folder}},
        },
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_timeout_s=options.timeout_s,
        logging_config={"log_level": "WARNING", "enable_access_log": False},
        **how,
    )
    return deployment.bind(served, options)


def build(args: Mapping[str, Any]) -> Any:
    """The same from plain values, for `serve run xlm_runtime.serving.deployment:build bundles=…` and Serve's files.

    Args:
        args: `bundles`, a list or one string with commas between them, `task`, and by name the arguments of
            `ServingOptions` and `Scaling`.

    Raises:
        InputError: an unknown name, or values that `ServingOptions` and `Scaling` refuse.
    """
    given = dict(args)
    bundles, task = given.pop("bundles", ()), given.pop("task", None)
    listed = [each for each in bundles.split(",") if each] if isinstance(bundles, str) else bundles
    parts = []
    for kind in (ServingOptions, Scaling):
        names = {field.name for field in fields(kind)} & given.keys()
        parts.append(kind(**{name: given.pop(name) for name in names}))
    if given:
        raise InputError(f"Unknown argument '{next(iter(given))}' of the application.")
    options, scaling = parts
    return application(read_served(listed, task), options, scaling)  # type: ignore[arg-type]


def import_serve() -> Any:
    """Ray Serve.

    Raises:
        MissingExtraError: it is not installed.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from ray import serve
    except ImportError as error:
        raise MissingExtraError("ray[serve]", "serve", "xlm-runtime serve") from error
    return serve
