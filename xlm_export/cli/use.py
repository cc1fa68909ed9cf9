"""`xlm-export export --for`: a bundle for a use, from one command."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from xlm_export.bundle_folder import what_goes
from xlm_export.exporting_for import ExportedFor, export_for
from xlm_export.progress import Progress
from xlm_export.quantization import Limits
from xlm_export.uses import USES
from xlm_runtime.cli.arguments import number
from xlm_runtime.errors import InputError

# options of `export` that a use decides, and those that only a use has
_DECIDED = ("precision", "layout", "opset", "inputs", "hidden_states", "attentions", "cache", "external_data",
            "full_logits", "no_verify")  # fmt: skip
_OF_USES = ("calibration", "data", "max_divergence", "min_agreement", "min_metric")


def add_use_arguments(parser: argparse.ArgumentParser) -> None:
    uses = "; ".join(f"{name}: {use.summary}" for name, use in USES.items())
    group = parser.add_argument_group("for a use", "layout, precision, recipe, target, engine and default graph follow")
    group.add_argument("--for", dest="use", choices=USES, help=uses)
    group.add_argument("--calibration", type=Path, metavar="FILE", help="texts to calibrate and compare on, one a "
                       "line, or lang<TAB>text (default: eight sentences in seven languages)")  # fmt: skip
    group.add_argument("--data", type=Path, metavar="FILE", help="labelled data for the task's metric, as for quantize")
    group.add_argument("--max-divergence", type=number, metavar="NATS", help="as for quantize")
    group.add_argument("--min-agreement", type=number, metavar="SHARE", help="as for quantize")
    group.add_argument("--min-metric", type=number, metavar="VALUE", help="as for quantize")


def check_use(options: argparse.Namespace) -> None:
    """Whether options contradict each other.

    Raises:
        InputError: they do.
    """

    def given(names: tuple[str, ...]) -> str:
        there = [name for name in names if getattr(options, name) != options.parser.get_default(name)]
        return ", ".join(f"--{name.replace('_', '-')}" for name in there)

    if options.use is None and (found := given(_OF_USES)):
        raise InputError(f"{found} belongs to --for, or to xlm-export quantize; add --for, or leave it out.")
    if options.use is not None and (found := given(_DECIDED)):
        raise InputError(
            f"--for {options.use} decides what {found} says; leave it out, or leave out --for and add graphs with "
            "quantize and optimize."
        )


def run_for_use(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Export; returns the exit status and what to print."""
    began = time.perf_counter()
    gone = what_goes(options.bundle) if options.force else []
    made = export_for(
        options.checkpoint,
        options.bundle,
        options.use,
        task=options.task,
        cls_index=options.cls_index,
        langs=options.langs,
        default_lang=options.default_lang,
        tokenizer=options.tokenizer,
        codes=options.codes,
        vocab=options.vocab,
        revision=options.revision,
        subfolder=options.subfolder,
        calibration=options.calibration,
        data=options.data,
        limits=Limits(options.max_divergence, options.min_agreement, options.min_metric),
        force=options.force,
        progress=progress,
    )
    seconds = time.perf_counter() - began
    head = f"{options.bundle}: {made.bundle.task} ({made.bundle.architecture}) for {options.use}, {seconds:.1f} s"
    dropped = [f"  {'dropped':<9}with the old bundle: {', '.join(gone)}"] if gone else []
    return 0, [head, *choice_lines(made), *dropped]


def choice_lines(made: ExportedFor) -> list[str]:
    """Each choice with its reason and what was measured, the times of a batch, and what is left to do."""
    lines = []
    for each in made.choices:
        measured = f" ({each.measured})" if each.measured else ""
        lines.append(f"  {each.what:<9}{each.chosen}: {each.reason}{measured}")
    lines += [
        f"  {'time':<9}{each.milliseconds:.1f} ms a batch: {each.title} with {each.provider}" for each in made.times
    ]
    return lines + [f"  {'to do':<9}{each}" for each in made.left_to_do]
