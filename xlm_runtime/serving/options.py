"""What is served, and within which limits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import InputError
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.sessions import GpuOptions

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


@dataclass(frozen=True)
class Served:
    """A bundle under a name.

    Attributes:
        name: in the URLs.
        bundle: its folder.
        task: a name out of `PIPELINES`.
    """

    name: str
    bundle: str
    task: str


@dataclass(frozen=True)
class ServingOptions:
    """How each replica computes, and what it takes from clients.

    Args:
        provider, threads, precision, gpu, engine_cache, cache_mb: see `pipeline`.
        max_batch_tokens: budget of a batch; by default one that suits the provider.
        max_wait_ms: how long a request waits for others that fill its batch up.
        max_queue: how many requests of a model may wait in a replica; more get 429.
        max_streams: how many texts of a model may be streamed at the same time in a replica; more get 429.
        max_body_bytes: of a request.
        max_text_chars: of all its strings together.
        max_texts: inputs of a request.
        timeout_s: seconds until a request that is not answered gets 504.
        token: what clients send as `Authorization: Bearer TOKEN`; None for no such check.
        log_file: where log lines go, one JSON object each; by default standard error.
    """

    provider: str = "cpu"
    threads: int | None = None
    precision: str | None = None
    gpu: GpuOptions | None = None
    engine_cache: str | None = None
    cache_mb: float | None = None
    max_batch_tokens: int | None = None
    max_wait_ms: float = 0.0
    max_queue: int = 1024
    max_streams: int = 4
    max_body_bytes: int = 1 << 20
    max_text_chars: int = 100_000
    max_texts: int = 256
    timeout_s: float = 30.0
    token: str | None = field(default=None, repr=False)
    log_file: str | None = None

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_streams", "max_body_bytes", "max_text_chars", "max_texts", "timeout_s"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected a positive number.")
        if not self.max_wait_ms >= 0:
            raise InputError(f"max_wait_ms is {self.max_wait_ms}; expected milliseconds, 0 for none.")
        if self.max_batch_tokens is not None and self.max_batch_tokens < 1:
            raise InputError(f"max_batch_tokens is {self.max_batch_tokens}; expected a positive number.")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise InputError("The token is empty, or holds what no HTTP header can; give printable ASCII characters.")


def read_served(given: Sequence[str], task: str | None = None) -> tuple[Served, ...]:
    """The bundles of a command line, each looked at.

    Args:
        given: `BUNDLE`, which is named after its folder, or `NAME=BUNDLE`.
        task: the task of all of them; by default the one that each was exported for.

    Raises:
        InputError: no bundle, a name that is no part of a URL or that two have, a task that a bundle is not for.
        BundleError: a folder that is no bundle.
    """
    if not given:
        raise InputError("No bundle was given; name the folder of at least one.")
    served: dict[str, Served] = {}
    for each in given:
        name, folder = _split(each)
        if not _NAME.fullmatch(name):
            raise InputError(
                f"The model's name '{name}' cannot be part of a URL; give another as NAME={folder}, of letters, "
                "digits, '-', '_' and '.'."
            )
        if name in served:
            raise InputError(
                f"Two models have the name '{name}': {served[name].bundle} and {folder}; give one of them another "
                f"as NAME={folder}."
            )
        made_for = Bundle.load(folder).task
        chosen = made_for if task is None else task
        if chosen not in PIPELINES:
            raise InputError(f"Unknown task '{chosen}'; expected one of {', '.join(PIPELINES)}.")
        if PIPELINES[chosen].bundle_task != made_for:
            raise InputError(f"The bundle '{folder}' is for {made_for}, not for {chosen}.")
        served[name] = Served(name, str(Path(folder).resolve()), chosen)
    return tuple(served.values())


def _split(given: str) -> tuple[str, str]:
    """Name and folder. A folder whose own name has an equals sign is one."""
    name, equals, folder = given.partition("=")
    if equals and not Path(given).exists():
        return name, folder
    return Path(given).resolve().name, given
