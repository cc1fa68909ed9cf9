"""`xlm-export engine`: a TensorRT engine from a bundle's graph."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm_runtime.bundle.engine_stamp import FLAVORS

ENGINE_STEPS = 5  # that `build_engine` names


def add_engine_command(commands: Any) -> None:
    """Add the command to what `ArgumentParser.add_subparsers` gave."""
    engine = commands.add_parser("engine", help="build a TensorRT engine from a bundle's graph")
    engine.add_argument("bundle", type=Path)
    engine.add_argument("--flavor", choices=FLAVORS, help="default: the first of them that is installed")
    engine.add_argument("--precision", help="fp32, fp16 or bf16 (default: the bundle's first graph)")
    engine.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="MIN:OPT:MAX",
        help="shapes to build for, each BATCHxSEQUENCE, such as 1x1:8x128:32x384; may be given several times",
    )
    engine.add_argument("--profiles", help="or a set of them: default, latency, throughput or long")
    engine.add_argument("--target", default="", help="GPU architectures, comma-separated, such as sm80,sm89")
    engine.add_argument("--timing-cache", type=Path, metavar="FILE", help="keep measurements between builds (tensorrt)")
    engine.add_argument("--optimization-level", type=int, help="0 builds fast, 5 runs fast")
    engine.add_argument("--name", help="of the files in engines/ (default: flavour, precision and targets)")


def run_engine(options: argparse.Namespace, progress: Callable[[str], None]) -> int:
    """Build and report; returns the exit status."""
    from xlm_export.engines import build_engine

    stamp, report = build_engine(
        options.bundle,
        flavor=options.flavor,
        precision=options.precision,
        profile=tuple(options.profile),
        profiles=options.profiles,
        targets=tuple(target for target in options.target.split(",") if target),
        timing_cache=options.timing_cache,
        optimization_level=options.optimization_level,
        name=options.name,
        progress=progress,
    )
    print(f"{options.bundle / stamp.plan}: {stamp.precision}, {report.plan_bytes / 1e6:.1f} MB, "
          f"{report.seconds:.1f} s, {stamp.flavor} {stamp.version} for {', '.join(stamp.targets)}")  # fmt: skip
    print(f"profiles: {', '.join(profile.name for profile in stamp.profiles)}")
    print("\n".join(report.lines()))
    return 0
