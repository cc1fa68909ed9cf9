"""Options of the command line that say where a bundle computes, for every command that opens one."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from xlm_runtime.bundle.remote import local_bundle
from xlm_runtime.cli.arguments import number, whole_number
from xlm_runtime.pipelines import pipeline
from xlm_runtime.providers import AUTO, PROVIDERS
from xlm_runtime.sessions import GpuOptions


def add_provider_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--provider", help=f"one of {', '.join((*PROVIDERS, AUTO))} (default: what the bundle was made "
                        "for, or cpu)")  # fmt: skip
    parser.add_argument("--threads", type=whole_number, help="CPU threads (default: all that the process may use)")
    parser.add_argument("--precision", help="which graph of the bundle (default: its first)")
    parser.add_argument(
        "--engine-cache",
        metavar="D",
        help="where what is built here is kept (default: the user's cache folder for cpu, nowhere for openvino, "
        "BUNDLE/engines on a GPU)",
    )
    parser.add_argument(
        "--no-engine-cache", action="store_const", const=False, dest="engine_cache", help="keep nothing for cpu"
    )
    parser.add_argument(
        "--cache-mb", type=number, metavar="MB", help="memory for texts' pieces that are remembered (default: 64)"
    )
    gpu = parser.add_argument_group("on a GPU")
    gpu.add_argument("--device", type=whole_number, metavar="N", help="number of the CUDA device (default: 0)")
    gpu.add_argument("--engine", metavar="NAME", help="tensorrt: which engine of the bundle (default: one that fits)")
    gpu.add_argument(
        "--engine-host-code",
        action="store_true",
        default=None,
        help="tensorrt: let a version-compatible engine run the code that it carries; for bundles that you trust",
    )
    gpu.add_argument(
        "--cuda-graphs",
        action=argparse.BooleanOptionalAction,
        help="capture calls and replay them (default: with tensorrt, and with graphs that were optimised for cuda)",
    )


def open_pipeline(task: str, args: argparse.Namespace) -> Any:
    """The pipeline that the options ask for; what "auto" chose takes one line on stderr.

    Raises:
        InputError: options for a GPU and a provider on the CPU, or what `pipeline` refuses.
    """
    opened = pipeline(
        task,
        local_bundle(args.bundle),
        args.provider,
        args.threads,
        args.precision,
        gpu=gpu_options(args),
        engine_cache=args.engine_cache,
        cache_mb=args.cache_mb,
    )
    if args.provider == AUTO:
        print(f"xlm-runtime: {opened.model.reason}", file=sys.stderr)
    return opened


def gpu_options(args: argparse.Namespace) -> GpuOptions | None:
    """The options for a GPU, None where there are none.

    Raises:
        InputError: what `GpuOptions` refuses.
    """
    names = ("device", "engine", "engine_host_code", "cuda_graphs")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    return GpuOptions(**given) if given else None
