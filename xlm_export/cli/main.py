"""`xlm-export`: export a checkpoint, verify a bundle, add graphs or engines to it."""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from tqdm import tqdm

from xlm_export.cli.engine import ENGINE_STEPS, add_engine_command, run_engine
from xlm_export.cli.quantize import add_quantize, run_quantize
from xlm_runtime.bundle import CLS_INDEX_CONVENTIONS, Bundle
from xlm_runtime.errors import XLMError
from xlm_runtime.tasks import LAYOUTS, OPTIONAL_INPUTS, TASK_NAMES

EXPORT_STEPS, VERIFY_STEPS, OPTIMIZE_STEPS = 3, 7, 11
MIXED_STEPS = 2  # more, to verify a packed graph


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 on an error, 130 when interrupted."""
    options = _parser().parse_args(arguments)
    try:
        commands = {
            "export": _export,
            "verify": _verify,
            "optimize": _optimize,
            "quantize": _quantize,
            "engine": _engine,
        }
        return commands[options.command](options)
    except XLMError as error:
        print(f"xlm-export: error: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # disk full, no permission
        print(f"xlm-export: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("xlm-export: interrupted; the bundle is as it was before", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xlm-export", description="XLM checkpoints become ONNX bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="trace a checkpoint into a bundle and verify it")
    export.add_argument("checkpoint", help="folder as save_pretrained writes it, or a hub id")
    export.add_argument("bundle", type=Path, help="folder to write")
    export.add_argument("--task", choices=TASK_NAMES, help="default: what the checkpoint's architecture says")
    export.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32")
    export.add_argument("--opset", type=int, help="version of ONNX's operators (default 18)")
    export.add_argument("--inputs", default="", help=f"optional inputs, comma-separated: {', '.join(OPTIONAL_INPUTS)}")
    export.add_argument("--hidden-states", action="store_true", help="each layer's hidden states as outputs")
    export.add_argument("--attentions", action="store_true", help="each layer's attention weights as outputs")
    export.add_argument(
        "--cache",
        action=argparse.BooleanOptionalAction,
        help="keys and values of past tokens as inputs and outputs (default: for text-generation if it is causal)",
    )
    export.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="padded",
        help="packed: tokens of a batch on one axis, no padding, and the last layer only where the head reads it",
    )
    export.add_argument("--external-data", action="store_true", help="weights in a file of their own")
    export.add_argument(
        "--cls-index",
        choices=CLS_INDEX_CONVENTIONS,
        default="first-sep",
        help="where the beam head was trained to look for 'no answer' (default first-sep)",
    )
    export.add_argument("--no-verify", action="store_true", help="do not compare the graph with torch")
    export.add_argument("--force", action="store_true", help="replace a bundle that is already there")
    verify = commands.add_parser("verify", help="compare a bundle with its checkpoint")
    verify.add_argument("bundle", type=Path)
    verify.add_argument("--checkpoint", required=True, help="what the bundle was exported from")
    verify.add_argument("--json", type=Path, metavar="FILE", help="write the whole report there")
    optimize = commands.add_parser("optimize", help="add a graph to a bundle that is rewritten for one engine")
    optimize.add_argument("bundle", type=Path)
    optimize.add_argument("--target", required=True, help="onnxruntime-cpu or onnxruntime-cuda")
    optimize.add_argument("--precision", help="of the portable graph to rewrite (default: the bundle's first)")
    optimize.add_argument("--passes", help="comma-separated, instead of the target's: attention, qkv, skip-layer-norm, "
                          "bias-gelu")  # fmt: skip
    optimize.add_argument("--force", action="store_true", help="replace such a graph that is already there")
    add_quantize(commands)
    add_engine_command(commands)
    return parser


class _Bar:
    """A progress bar that shows the step under way; full once its block ends without an error."""

    def __init__(self, steps: int = 1) -> None:
        self._bar: Any = tqdm(total=steps, bar_format="{desc:<40}|{bar:20}| {elapsed}", leave=False, disable=None)
        self._started = False

    def __call__(self, step: str, left: int | None = None) -> None:
        """Begin a step. `left`: how many are to follow, for a command whose number of steps shows as it runs."""
        self._bar.update(int(self._started))
        if left is not None:
            self._bar.total = self._bar.n + 1 + left
        self._bar.set_description_str(step)
        self._started = True

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        if kind is None:
            self._bar.update(int(self._started))
        self._bar.close()


def _export(options: argparse.Namespace) -> int:
    from xlm_export.export import export
    from xlm_export.tracing.trace import DEFAULT_OPSET

    began = time.perf_counter()
    steps = EXPORT_STEPS + (0 if options.no_verify else _verify_steps(options.layout))
    with _Bar(steps) as bar, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        bundle = export(
            options.checkpoint,
            options.bundle,
            task=options.task,
            precision=options.precision,
            opset=DEFAULT_OPSET if options.opset is None else options.opset,
            inputs=tuple(name for name in options.inputs.split(",") if name),
            hidden_states=options.hidden_states,
            attentions=options.attentions,
            cache=options.cache,
            layout=options.layout,
            external_data=options.external_data,
            cls_index=options.cls_index,
            verify=not options.no_verify,
            force=options.force,
            progress=bar,
        )
    for warning in caught:
        print(f"xlm-export: warning: {warning.message}", file=sys.stderr)
    verification = bundle.verification
    size = sum((options.bundle / name).stat().st_size for name in bundle.files) / 1e6
    print(f"{options.bundle}: {bundle.task} ({bundle.architecture}), {bundle.graph().precision}, {size:.1f} MB, "
          f"{time.perf_counter() - began:.1f} s")  # fmt: skip
    if "outputs" in verification:
        worst = max(error["max_absolute"] for error in verification["outputs"].values())
        print(f"verification {verification['status']}: largest difference to torch {worst:.1e}")
    else:
        print("verification not run")
    return 0


def _verify_steps(layout: str) -> int:
    return VERIFY_STEPS + (MIXED_STEPS if layout == "packed" else 0)


def _verify(options: argparse.Namespace) -> int:
    from xlm_export.export import verify

    with _Bar(1 + _verify_steps(Bundle.load(options.bundle, accept_failed=True).graph().layout)) as bar:
        report = verify(options.bundle, options.checkpoint, progress=bar)
    if options.json:
        options.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    print(report.table())
    return 1 if report.failures else 0


def _optimize(options: argparse.Namespace) -> int:
    from xlm_export.optimization import optimize

    passes = None if options.passes is None else tuple(name for name in options.passes.split(",") if name)
    with _Bar(OPTIMIZE_STEPS) as bar:
        made = optimize(
            options.bundle,
            options.target,
            precision=options.precision,
            passes=passes,
            force=options.force,
            progress=bar,
        )
    size = (options.bundle / made.graph.file).stat().st_size / 1e6
    shared = f", the rest of its weights in {', '.join(made.graph.weights_in)}" if made.graph.weights_in else ""
    worst = max(error.relative for error in made.report.outputs.values())
    print(f"{options.bundle}: {made.graph.file}, {size:.1f} MB{shared}")
    print("matches: " + ", ".join(f"{name} {count}" for name, count in made.counts.items()))
    print(
        f"verification {made.report.status}: largest difference to the portable graph {worst:.1e} of its largest value"
    )
    return 0


def _quantize(options: argparse.Namespace) -> int:
    with _Bar() as bar:
        show = run_quantize(options, bar)
    show()
    return 0


def _engine(options: argparse.Namespace) -> int:
    with _Bar(ENGINE_STEPS) as bar:
        return run_engine(options, bar)
