"""`xlm-runtime serve BUNDLE…`: bundles over HTTP, by Ray Serve or in this process."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from threading import Thread
from typing import Any

from xlm_runtime.cli import commands
from xlm_runtime.cli.arguments import number, whole_number
from xlm_runtime.cli.provider_options import add_provider_options, gpu_options
from xlm_runtime.errors import EngineError, InputError, XLMError
from xlm_runtime.machine import available_cpus
from xlm_runtime.serving.deployment import Scaling, application, import_serve
from xlm_runtime.serving.options import ServingOptions, read_served
from xlm_runtime.serving.process import serve_here

TOKEN = "XLM_SERVE_TOKEN"
"""The environment variable with the bearer token."""

LOOPBACK, PORT = "127.0.0.1", 8000
_NAME = "xlm"  # of the application, in Serve
# for messages between the processes of one machine: bodies are small
_OBJECT_STORE_BYTES = 128 << 20
# for Serve to end, when its replicas have answered what they had
_ENDING_S = 10
_ERRORS = XLMError.__module__
_SERVE_LOGS = {"log_level": "WARNING", "enable_access_log": False}


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with `add_parser` of the commands."""
    parser = add("serve", description=commands.COMMANDS["serve"].help)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help="folder, or NAME=FOLDER (default: its own name)")
    parser.add_argument("--task", help="the task of all bundles (default: what each was exported for)")
    parser.add_argument("--host", default=LOOPBACK, help=f"address to listen at (default: {LOOPBACK}, this machine)")
    parser.add_argument("--port", type=whole_number, default=PORT, help=f"(default: {PORT})")
    parser.add_argument(
        "--token-file", metavar="FILE", help=f"file with the bearer token of clients (default: ${TOKEN}, or none)"
    )
    parser.add_argument("--log-file", metavar="FILE", help="where log lines in JSON go (default: standard error)")
    add_scaling_options(parser.add_argument_group("replicas"))
    add_limits(parser.add_argument_group("batches and limits, of each replica"))
    add_provider_options(parser)


def add_scaling_options(group: Any) -> None:
    known = Scaling()
    group.add_argument("--replicas", type=whole_number, default=known.replicas, metavar="N", help="(default: 1)")
    group.add_argument(
        "--max-replicas", type=whole_number, metavar="N", help="more replicas under load, up to so many (default: none)"
    )
    group.add_argument(
        "--target-ongoing-requests",
        type=number,
        default=known.target_ongoing_requests,
        metavar="N",
        help="of a replica, above which there are to be more (default: 32)",
    )
    group.add_argument("--cpus-per-replica", type=number, default=known.cpus_per_replica, metavar="N")
    group.add_argument("--gpus-per-replica", type=number, default=known.gpus_per_replica, metavar="N")
    group.add_argument("--in-process", action="store_true", help="one replica, here and without Ray (extra http)")
    group.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster (default: one of this command's own)")


def add_limits(group: Any) -> None:
    known = ServingOptions()
    for name, what in (
        ("max_batch_tokens", "budget of a batch (default: one that suits the provider)"),
        ("max_queue", "requests of a model that may wait; more get 429"),
        ("max_streams", "texts of a model that are streamed at a time; more get 429"),
        ("max_body_bytes", "bytes of a request"),
        ("max_text_chars", "characters of a request's texts"),
        ("max_texts", "inputs of a request"),
    ):
        default = getattr(known, name)
        shown = what if default is None else f"{what} (default: {default})"
        group.add_argument(f"--{name.replace('_', '-')}", type=whole_number, default=default, metavar="N", help=shown)
    group.add_argument(
        "--max-wait-ms",
        type=number,
        default=known.max_wait_ms,
        metavar="MS",
        help="how long a request waits for others that fill its batch up (default: 0)",
    )
    group.add_argument(
        "--timeout",
        type=number,
        default=known.timeout_s,
        metavar="S",
        help="seconds until a request that is not answered gets 504 (default: 30)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        InputError: options or bundles that cannot be used, a port that is taken.
        BundleError: a folder that is no bundle.
        MissingExtraError: Ray Serve is not installed, or for --in-process uvicorn.
        EngineError: the replicas did not start.
    """
    serve = None if args.in_process else import_serve()
    served = read_served(args.bundles, args.task)
    options = ServingOptions(
        provider=args.provider,
        threads=args.threads,
        precision=args.precision,
        gpu=gpu_options(args),
        engine_cache=args.engine_cache,
        cache_mb=args.cache_mb,
        max_batch_tokens=args.max_batch_tokens,
        max_wait_ms=args.max_wait_ms,
        max_queue=args.max_queue,
        max_streams=args.max_streams,
        max_body_bytes=args.max_body_bytes,
        max_text_chars=args.max_text_chars,
        max_texts=args.max_texts,
        timeout_s=args.timeout,
        token=_token(args.token_file),
        log_file=None if args.log_file is None else str(Path(args.log_file).resolve()),
    )
    scaling = Scaling(
        args.replicas,
        args.max_replicas,
        args.target_ongoing_requests,
        args.cpus_per_replica,
        args.gpus_per_replica,
    )
    if args.ray is None:
        check_address(args.host, args.port)
    names = ", ".join(f"{each.name} ({each.task})" for each in served)
    url = f"http://{args.host}:{args.port}"
    ready = f"xlm-runtime: serving {names} at {url}, with {url}/docs; Ctrl-C ends it"
    if serve is None:
        if scaling != Scaling() or args.ray is not None:
            raise InputError("--in-process is one replica without Ray; leave out --ray and the options of replicas.")
        serve_here(served, options, args.host, args.port, lambda: print(ready, file=sys.stderr))
        return 0
    cpus = ceil(scaling.most * scaling.cpus_per_replica)
    with ray_session(args.ray, cpus) as metrics_folder, _deleted(serve, options.timeout_s + _ENDING_S):
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        serve.start(http_options={"host": args.host, "port": args.port}, logging_config=_SERVE_LOGS)
        try:
            serve.run(application(served, options, scaling, metrics_folder), name=_NAME)
        except RuntimeError as error:
            raise EngineError(f"The replicas did not start: {_cause(serve) or error}") from error
        print(ready, file=sys.stderr)
        while True:
            time.sleep(3600)


@contextmanager
def ray_session(address: str | None, cpus: int) -> Iterator[str | None]:
    """A connection to a Ray cluster, or without an address one of this process's own, which ends with it.

    Args:
        address: host and port, or "auto".
        cpus: for how many there is to be room in a cluster of one's own. Replicas take turns on the CPUs.

    Returns:
        A folder for figures, which goes with the cluster; None in another's.

    Raises:
        EngineError: there is no cluster there, or none can be started.
    """
    import ray

    folder, own = None, {}
    if address is None:
        folder = tempfile.mkdtemp(prefix="xlm-")  # short: the names of sockets in it may have 107 bytes
        own = {
            "num_cpus": max(available_cpus(), cpus),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": LOOPBACK,
            "_temp_dir": folder,
        }
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        try:
            ray.init(address="local" if address is None else address, logging_level=logging.ERROR, **own)
        except Exception as error:  # of many classes; a node that does not start in time is a bare one
            raise EngineError(f"Ray cannot be {'started' if address is None else 'reached'}: {error}") from error
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray sets one of its own
        yield None if folder is None else str(Path(folder, "metrics"))
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _deleted(serve: Any, seconds: float) -> Iterator[None]:
    """At the end the replicas answer what they have and go. Where Ray is gone already, nobody waits for it longer."""

    def delete() -> None:
        with suppress(Exception):
            serve.delete(_NAME)

    try:
        yield
    finally:
        ending = Thread(target=delete, daemon=True)
        ending.start()
        ending.join(seconds)


def _cause(serve: Any) -> str | None:
    """Why replicas do not start: the last error that is ours in what Serve says of them."""
    states = [status.deployments.values() for status in serve.status().applications.values()]
    lines = [line for state in states for each in state for line in each.message.splitlines()]
    ours = [line for line in lines if line.startswith(f"{_ERRORS}.")]
    return ours[-1].partition(": ")[2] if ours else None


def check_address(host: str, port: int) -> None:
    """Whether a server can listen there.

    Raises:
        InputError: it cannot.
    """
    if not 0 < port < 65536:
        raise InputError(f"The port is {port}; expected a number from 1 to 65535.")
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"Port {port} of {host} is taken by another program; give another with --port.") from error
        raise InputError(f"Nothing can listen at {host}, port {port}: {error.strerror or error}.") from error


def _token(path: str | None) -> str | None:
    """The bearer token, of a file or the environment; never an option's value, which every process could read."""
    if path is None:
        return os.environ.get(TOKEN)
    return Path(path).read_text(encoding="utf-8").strip()
