"""`xlm-export export`: a checkpoint becomes a bundle."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from xlm_export.bundle_folder import what_goes
from xlm_export.cli.lists import comma_separated
from xlm_export.cli.use import add_use_arguments, check_use, run_for_use
from xlm_export.exporting import PRECISIONS, export
from xlm_export.progress import Progress
from xlm_export.tracing.trace import DEFAULT_OPSET
from xlm_runtime.bundle import CLS_INDEX_CONVENTIONS, LANGS_INPUT
from xlm_runtime.cli.arguments import whole_number
from xlm_runtime.tasks import LAYOUTS, OPTIONAL_INPUTS, TASK_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="folder as save_pretrained writes it, a hub id, org/name[@REV], or a .pth file of XLM's original code",
    )
    parser.add_argument("bundle", type=Path, help="folder to write")
    parser.add_argument("--task", choices=TASK_NAMES, help="default: what the checkpoint's architecture says")
    parser.add_argument("--tokenizer", metavar="FOLDER|ID", help="where the tokenizer is (default: the checkpoint)")
    parser.add_argument("--codes", type=Path, metavar="FILE", help="fastBPE's codes of a .pth checkpoint")
    parser.add_argument("--vocab", type=Path, metavar="FILE",
                        help="its vocabulary, to compare with the one in the checkpoint")  # fmt: skip
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of a checkpoint on the hub")
    parser.add_argument("--subfolder", metavar="NAME", help="folder of the checkpoint within")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: fp32")
    parser.add_argument("--opset", type=whole_number, default=DEFAULT_OPSET,
                        help=f"version of ONNX's operators (default {DEFAULT_OPSET})")  # fmt: skip
    parser.add_argument("--inputs", type=comma_separated, default=(),
                        help=f"optional inputs, comma-separated: {', '.join(OPTIONAL_INPUTS)}")  # fmt: skip
    parser.add_argument("--hidden-states", action="store_true", help="each layer's hidden states as outputs")
    parser.add_argument("--attentions", action="store_true", help="each layer's attention weights as outputs")
    parser.add_argument(
        "--cache",
        action=argparse.BooleanOptionalAction,
        help="keys and values of past tokens as inputs and outputs (default: for text-generation if it is causal)",
    )
    parser.add_argument(
        "--layout",
        choices=LAYOUTS,
        help="packed: tokens of a batch on one axis, no padding, and the last layer only where the head reads it "
        "(default: padded)",
    )
    parser.add_argument("--external-data", action="store_true", help="weights in a file of their own")
    parser.add_argument(
        "--cls-index",
        choices=CLS_INDEX_CONVENTIONS,
        default="first-sep",
        help="where the beam head was trained to look for 'no answer' (default first-sep)",
    )
    parser.add_argument(
        "--langs",
        default=LANGS_INPUT,
        metavar="input|none|CODE",
        help="input: the graph reads each token's language (default); none, or a language's code: it reads none, and "
        "no text, or every text, gets a language embedding",
    )
    parser.add_argument("--default-lang", metavar="CODE",
                        help="language embedding of texts that come without a language (default: none)")  # fmt: skip
    parser.add_argument("--full-logits", action="store_true",
                        help="a language model's graph scores every token, as optimum expects")  # fmt: skip
    parser.add_argument("--no-verify", action="store_true", help="do not compare the graph with torch")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there, "
                        "with the graphs, engines and times that were added to it")  # fmt: skip
    add_use_arguments(parser)


def run(options: argparse.Namespace, progress: Progress) -> tuple[int, list[str]]:
    """Export; returns the exit status and what to print."""
    check_use(options)
    if options.use is not None:
        return run_for_use(options, progress)
    began = time.perf_counter()
    gone = what_goes(options.bundle) if options.force else []
    bundle = export(
        options.checkpoint,
        options.bundle,
        task=options.task,
        precision=options.precision or "fp32",
        opset=options.opset,
        inputs=options.inputs,
        hidden_states=options.hidden_states,
        attentions=options.attentions,
        cache=options.cache,
        layout=options.layout or "padded",
        external_data=options.external_data,
        cls_index=options.cls_index,
        langs=options.langs,
        default_lang=options.default_lang,
        full_logits=options.full_logits,
        tokenizer=options.tokenizer,
        codes=options.codes,
        vocab=options.vocab,
        revision=options.revision,
        subfolder=options.subfolder,
        verify=not options.no_verify,
        force=options.force,
        progress=progress,
    )
    size = sum((options.bundle / name).stat().st_size for name in bundle.files) / 1e6
    seconds = time.perf_counter() - began
    written = f"{bundle.task} ({bundle.architecture}), {bundle.graph().precision}, {size:.1f} MB, {seconds:.1f} s"
    verified = "verification not run"
    if "outputs" in bundle.verification:
        worst = max(error["max_absolute"] for error in bundle.verification["outputs"].values())
        verified = f"verification {bundle.verification['status']}: largest difference to torch {worst:.1e}"
    dropped = [f"replaced, and dropped with the old bundle: {', '.join(gone)}"] if gone else []
    return 0, [f"{options.bundle}: {written}", verified, *dropped]
