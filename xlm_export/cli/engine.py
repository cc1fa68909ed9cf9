"""`xlm-export engine`: a TensorRT engine from a bundle's graph."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xlm_export.cli.lists import comma_separated
from xlm_export.engines import build_engine
from xlm_export.progress import Progress
from xlm_runtime.bundle.engine_stamp import FLAVORS
from xlm_runtime.cli.arguments import whole_number


class _FormerSpelling(argparse.Action):
    """`--target`, as `--gpu-arch` was called before."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        print(f"xlm-export: note: {option_string} is now --gpu-arch", file=sys.stderr)
        setattr(namespace, self.dest, values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--flavor", choices=FLAVORS, help="default: the first of them that is installed")
    parser.add_argument("--precision", help="fp32, fp16 or bf16 (default: the bundle's first graph)")
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="MIN:OPT:MAX",
        help="shapes to build for, each BATCHxSEQUENCE, such as 1x1:8x128:32x384; may be given several times",
    )
    parser.add_argument("--profiles", help="or a set of them: default, latency, throughput or long")
    parser.add_argument(
        "--gpu-arch",
        type=comma_separated,
        default=(),
        metavar="ARCH,…",
        help="GPU architectures, comma-separated, such as sm80,sm89",
    )
    parser.add_argument(
        "--target",
        type=comma_separated,
        action=_FormerSpelling,
        dest="gpu_arch",
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep measurements between builds (tensorrt)")
    parser.add_argument("--optimization-level", type=whole_number, help="0 builds fast, 5 runs fast")
    parser.add_argument(
        "--version-compatible",
        action="store_true",
        help="tensorrt: for its lean runtime, too, and for later versions of the same major version; the plan carries "
        "code, 105 MB of it, that sessions run only with leave",
    )
    parser.add_argument(
        "--exclude-lean-runtime",
        action="store_true",
        help="with --version-compatible: without that code, and for the same version of TensorRT alone",
    )
    parser.add_argument("--name", help="of the files in engines/ (default: from flavour, precision and architectures)")


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Build; returns the exit status and what to print."""
    stamp, report = build_engine(
        options.bundle,
        flavor=options.flavor,
        precision=options.precision,
        profile=tuple(options.profile),
        profiles=options.profiles,
        gpu_archs=options.gpu_arch,
        timing_cache=options.timing_cache,
        optimization_level=options.optimization_level,
        version_compatible=options.version_compatible,
        exclude_lean_runtime=options.exclude_lean_runtime,
        name=options.name,
        progress=progress,
    )
    built = f"{stamp.precision}, {report.plan_bytes / 1e6:.1f} MB, {report.seconds:.1f} s"
    return 0, [
        f"{options.bundle / stamp.plan}: {built}, {stamp.flavor} {stamp.version} for {', '.join(stamp.gpu_archs)}",
        f"profiles: {', '.join(profile.name for profile in stamp.profiles)}",
        *report.lines(),
    ]
