"""`xlm-runtime serve BUNDLE…`: bundles over HTTP, by Ray Serve or in this process."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm_runtime.cli import commands
from xlm_runtime.cli.arguments import number, whole_number
from xlm_runtime.cli.provider_options import add_provider_options, gpu_options
from xlm_runtime.errors import EngineError, InputError
from xlm_runtime.machine import available_cpus
from xlm_runtime.serving.deployment import Scaling, application, import_serve
from xlm_runtime.serving.options import ServingOptions, read_served
from xlm_runtime.serving.process import serve_here

TOKEN = "XLM_SERVE_TOKEN"
"""The environment variable with the bearer token."""

LOOPBACK, PORT = "127.0.0.1", 8000
# for messages between the processes of one machine: bodies are small
_OBJECT_STORE_BYTES = 128 << 20


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
    group.add_argument("--ray", metavar="ADDRESS", help="of a Ray cluster (default: one of this command's own)")
    group.add_argument(
        "--in-process", action="store_true", help="one replica in this process, without Ray (extra http)"
    )


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
    ready = f"xlm-runtime: serving {names} at http://{args.host}:{args.port}, with /docs; Ctrl-C ends it"
    if serve is None:
        if scaling != Scaling() or args.ray is not None:
            raise InputError("--in-process is one replica without Ray; leave out --ray and the options of replicas.")
        serve_here(served, options, args.host, args.port, lambda: print(ready, file=sys.stderr))
        return 0
    import ray

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    if args.ray is None:
        # replicas take turns on the CPUs, so Ray may put as many there as are asked for
        cpus = max(available_cpus(), round(scaling.most * scaling.cpus_per_replica))
        ray.init(
            address="local",
            num_cpus=cpus,
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            logging_level=logging.WARNING,
        )
    else:
        ray.init(address=args.ray, logging_level=logging.WARNING)
    try:
        serve.start(http_options={"host": args.host, "port": args.port})
        try:
            serve.run(application(served, options, scaling), name="xlm")
        except RuntimeError as error:
            raise EngineError(f"The replicas did not start: {error}") from error
        print(ready, file=sys.stderr)
        while True:
            time.sleep(3600)
    finally:
        serve.shutdown()
        ray.shutdown()


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
