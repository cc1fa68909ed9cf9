"""The GPU benchmark, `python -m benchmarks gpu [options]`, by the protocol of the CPU's. docs/benchmarks.md tells what
is measured and how.

It needs a card, torch, onnx and this project; what else is installed is measured as well, and the report names what is
not there. Weights are seeded: a classifier of the xnli15 configuration, and for generation the xlm-clm-ende one.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.prepare import (
    FLAVORS,
    PreparationError,
    Prepared,
    Size,
    code_folder,
    only_graph,
    prepare_checkpoint,
    prepare_gpu,
)
from benchmarks.protocol import Record, Settings, Spec
from benchmarks.suite import (
    Phase,
    Sample,
    add_options,
    check_names,
    choose_contenders,
    choose_workloads,
    make_settings,
    read_options,
    report_prefix,
    run_suite,
)
from benchmarks.texts import TextSampler
from benchmarks.workloads import AS_IT_COMES, OWN, PADDED_WAYS, TextRow, Workload, draw_lengths, fixed
from xlm_runtime.bundle import Bundle
from xlm_runtime.tokenization import XLMTokenizer

QUICK = {"layers": 2, "dim": 64, "vocab": 500}
CALLS = {1: 40, 8: 20, 32: 10}
QUICK_CALLS = 2
BATCHES, LENGTHS = (1, 8, 32), (16, 128, 384)
PROMPT, NEW_TOKENS = 32, 64
MODELS = {"text-classification": "xlm-mlm-tlm-xnli15-1024", "text-generation": "xlm-clm-ende-1024"}


@dataclass(frozen=True)
class Ours:
    """A row of ours: a bundle of `prepare_gpu` with a provider; `graphs` whether calls are captured, None by default;
    `card` where the CPU cannot stand in for it."""

    title: str
    bundle: str
    provider: str
    graphs: bool | None = None
    card: bool = True


ENGINES = tuple(Ours(flavor, flavor, "tensorrt") for flavor in FLAVORS)
OURS = {
    "text-classification": (
        Ours("cuda", "plain", "cuda", False, card=False),
        Ours("cuda, graphs", "plain", "cuda", True),
        Ours("tensorrt-ep", "plain", "tensorrt-ep"),
        Ours("cuda packed", "packed", "cuda", False, card=False),
        Ours("cuda packed optimized", "packed optimized", "cuda", False),
        Ours("cuda packed optimized, graphs", "packed optimized", "cuda", True),
        Ours("cuda optimized", "optimized", "cuda", False),
        Ours("cuda optimized, graphs", "optimized", "cuda", True),
        *ENGINES,
    ),
    "text-generation": (
        Ours("cuda cache", "plain", "cuda", False, card=False),
        Ours("cuda cache, graphs", "plain", "cuda", True),
        Ours("tensorrt-ep", "plain", "tensorrt-ep"),
        Ours("cuda static cache", "optimized", "cuda", False),
        Ours("cuda static cache, graphs", "optimized", "cuda", True),
        *ENGINES,
    ),
}


def mixed(rng: np.random.Generator) -> list[list[int]]:
    """32 sequences of 8 to 384 tokens, 4,096 in all: a third of a padded batch."""
    return [draw_lengths(rng, 32, 8, 384, total=4096, longest=384)]


def stream(rng: np.random.Generator) -> list[list[int]]:
    """500 such sequences: 64,000 tokens."""
    return [draw_lengths(rng, 500, 8, 384, total=64_000, longest=384)]


def short_stream(rng: np.random.Generator) -> list[list[int]]:
    return [draw_lengths(rng, 50, 8, 32, total=800)]


def gpu_workloads(quick: bool) -> list[Workload]:
    """Model alone ("run"), text to answer ("texts"), generation."""
    lengths, new = ((8, 32), 4) if quick else (LENGTHS, NEW_TOKENS)
    calls = dict.fromkeys(CALLS, QUICK_CALLS) if quick else CALLS
    found = []
    for do, title in (("run", ""), ("texts", "text ")):
        about = "ids to logits" if do == "run" else "text to answer"
        found += [
            Workload(f"{title}{rows}x{n}", f"{about}, {rows} × {n} tokens", fixed(rows, n), calls=calls[rows], do=do)
            for rows in BATCHES
            for n in lengths
        ]
        drawn = fixed(4, 24) if quick else mixed
        found.append(
            Workload(f"{title}mixed", f"{about}, 32 of 8 to 384 tokens, 4,096 in all", drawn, calls=calls[32], do=do)
        )
    about = "text to answer, 500 texts of 8 to 384 tokens, 64,000 in all, given in one call"
    found.append(Workload("text stream", about, short_stream if quick else stream, calls=2, do="texts"))
    prompts = f"prompts of {PROMPT} tokens, {new} new ones, greedy"
    for do, about in (("generate", prompts), ("decode", f"{prompts}: ms a step, the prompt's left out")):
        found += [
            Workload(f"{do} {rows}", f"{rows} {about}", fixed(rows, PROMPT), task="text-generation", calls=2, do=do,
                     new_tokens=new)
            for rows in (1, 8)
        ]  # fmt: skip
    return found


def peer_specs(made: Prepared, device: str, precision: str, fixed_shapes: set[str], names: set[str]) -> list[Spec]:
    """transformers and this project's torch model, eager and compiled."""
    common = {"checkpoint": str(made.checkpoint), "task": made.task, "precision": precision, "device": device}
    generation = made.task == "text-generation"
    ways = (AS_IT_COMES,) if generation else PADDED_WAYS

    def spec(name: str, kind: str, compiled: Any, about: str, skips: tuple[str, ...] = ()) -> Spec:
        return Spec(name, "peer", kind, {**common, "compile": compiled, "inputs": "all"}, ways, about, precision,
                    skips=skips)  # fmt: skip

    about = "its attention is spelled out in matrix products"
    specs = [spec(f"transformers {precision}", "transformers_model", False, about)]
    if not generation:
        specs.append(
            spec(f"torch.compile {precision}", "transformers_model", True, "transformers' model, dynamic shapes")
        )
    sdpa = "this project's torch model: scaled_dot_product_attention"
    specs.append(spec(f"torch SDPA {precision}", "torch_model", None, sdpa + (", its own cache" if generation else "")))
    if not generation:
        specs.append(
            spec(f"torch SDPA compiled {precision}", "torch_model", "default", f"{sdpa}, torch.compile, dynamic shapes")
        )
        specs.append(
            spec(f"torch SDPA graphs {precision}", "torch_model", "reduce-overhead",
                 f"{sdpa}, torch.compile with CUDA graphs: fixed shapes only", tuple(sorted(names - fixed_shapes)))
        )  # fmt: skip
        packed = "this project's torch model on packed tokens, varlen_attn, torch.compile, dynamic shapes"
        captured = f"{packed}, each shape captured in a CUDA graph at the draw that warms up"
        for name, about, graphs, skips in (
            (f"torch packed compiled {precision}", packed, False, ()),
            (f"torch packed compiled, graph {precision}", captured, True, ("text stream",)),
        ):
            given = {**common, "compile": True, "graphs": graphs}
            specs.append(Spec(name, "peer", "torch_packed", given, (AS_IT_COMES,), about, precision, skips=skips))
    return specs


def our_specs(made: Prepared, given: Sequence[Path], views: Path, device: str) -> list[Spec]:
    """Each bundle with the providers that take it; with the stand-in for a card, provider "cpu" for all."""
    on_card = device == "cuda"
    rows = [(row, made.bundles[row.bundle]) for row in OURS[made.task] if row.bundle in made.bundles]
    rows += [(Ours(f"{folder.name}, {name}", "", name), folder) for folder in given
             if Bundle.load(folder).task == made.task for name in ("cuda", "tensorrt-ep", "tensorrt")]  # fmt: skip
    specs = []
    for row, folder in rows:
        if row.card and not on_card:
            continue
        bundle = Bundle.load(folder)
        view = folder if row.provider == "tensorrt" else only_graph(bundle, bundle.graphs[-1], views)
        options = {
            "bundle": str(view),
            "task": made.task,
            "provider": row.provider if on_card else "cpu",
            "cuda_graphs": row.graphs if on_card else None,
        }
        ways = (OWN,) if made.task == "text-generation" else (*PADDED_WAYS, OWN)
        about = f"{folder.name}, provider {options['provider']}"
        specs.append(Spec(f"ours {row.title}", "ours", "ours", options, ways, about, bundle.graphs[-1].precision))
    return specs


def named(task: str) -> dict[str, Ours]:
    """Our rows by the names that --ours chooses among."""
    return {f"ours {row.title}": row for row in OURS[task]}


def wanted_bundles(task: str, ours: str | None, device: str) -> set[str]:
    """Those that the rows need which --ours chooses. Engines are built on a card alone."""
    names = [Spec(name, "ours", "ours", {}) for name in named(task)]
    bundles = {named(task)[spec.name].bundle for spec in choose_contenders(names, None, ours)}
    return bundles if device == "cuda" else bundles - set(FLAVORS)


def contenders(made: Prepared, workloads: Sequence[Workload], options: argparse.Namespace) -> list[Spec]:
    """All peers and graphs of ours for a task."""
    names = {workload.name for workload in workloads}
    fixed_shapes = {name for name in names if not name.endswith(("mixed", "stream"))}
    return [
        *peer_specs(made, options.device, options.precision, fixed_shapes, names),
        *our_specs(made, options.bundle, made.folder / "views", options.device),
    ]


def make_phase(
    made: Prepared,
    specs: Sequence[Spec],
    workloads: Sequence[Workload],
    settings: Settings,
    options: argparse.Namespace,
    record: Record,
) -> Phase:
    """The chosen of a task's contenders, and their draws."""
    for name, reason in made.missing.items():
        record({"kind": "missing", "contender": f"{name} ({made.task})", "reason": reason})
    config = json.loads((made.checkpoint / "config.json").read_text(encoding="utf-8"))
    rates = {"device": options.device, "precision": options.precision, "dim": config["emb_dim"]}
    chosen = [
        Spec("rates", "bound", "device_rates", rates, (), "matrix products and copies", options.precision),
        *choose_contenders(specs, options.peers, options.ours),
    ]
    texts = TextSampler(XLMTokenizer.from_pretrained(made.checkpoint), np.random.default_rng(2))

    def sample(workload: Workload) -> Sample:
        if workload.do == "texts":
            return lambda rng: [[TextRow(texts.draw(n, rng), n) for n in group] for group in workload.lengths(rng)]
        # one language, as an English text has in all contenders
        return lambda rng: workload.draw(rng, config["vocab_size"], 1)

    lengths = fixed(settings.check_rows, 24) if options.quick else mixed
    checked = [] if made.task == "text-generation" else sample(Workload("check", "", lengths))(np.random.default_rng(1))
    exact = {"checkpoint": str(made.checkpoint), "task": made.task, "precision": "fp32", "device": options.device,
             "compile": None, "inputs": "all"}  # fmt: skip
    references = [
        Spec("transformers fp32, for the check", "peer", "transformers_model", exact, PADDED_WAYS),
        Spec("torch fp32, for the check", "peer", "torch_model", exact, PADDED_WAYS),
    ]
    sizes = {"layers": config["n_layers"], "dim": config["emb_dim"], "vocab": config["vocab_size"],
             "bytes": 4 if options.precision == "fp32" else 2}  # fmt: skip
    first = sample(Workload("first", "", fixed(1, 16)))(np.random.default_rng(1))[0][0]
    return Phase(made.task, chosen, workloads, sample, first, references if checked else [], [], checked, sizes)


def require_device(device: str) -> None:
    """Raises SystemExit without a card that torch can use."""
    try:
        import torch
    except ImportError as error:
        raise SystemExit("The GPU benchmark needs torch: pip install 'xlm-onnx[export,benchmarks]'") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "No GPU: torch finds no CUDA device. The GPU benchmark runs on a machine with a card and a CUDA build of "
            "torch (check nvidia-smi, and torch.version.cuda); `python -m benchmarks cpu` measures the CPU."
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    add_options(parser, "gpu")
    parser.add_argument("--precision", choices=("fp16", "bf16"), default="fp16", help="of all (%(default)s)")
    # for tests of this file: everything on the CPU, in place of a card
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help=argparse.SUPPRESS)
    parser.add_argument(
        "--together", action="store_true",
        help="prepare and start what can be at the same time: a shorter run, whose times to start are no measurement",
    )  # fmt: skip
    options = read_options(parser, QUICK)
    if options is None:
        return
    settings = replace(make_settings(options), together=options.together)
    workloads = choose_workloads(gpu_workloads(options.quick), options.only)
    require_device(options.device)
    prefix = report_prefix(options, "gpu")

    def make(task: str, record: Record) -> Prepared:
        size = Size(MODELS[task], options.layers, options.dim, options.vocab)
        folder = options.work / size.folder
        began = time.monotonic()
        checkpoint = prepare_checkpoint(folder, task, size, causal=task == "text-generation")
        record({"kind": "prepared", "what": f"{task}, checkpoint", "seconds": time.monotonic() - began})
        wanted = wanted_bundles(task, options.ours, options.device)
        return prepare_gpu(
            code_folder(folder), task, checkpoint, options.precision, wanted, record=record, progress=print
        )

    tasks = list(dict.fromkeys(workload.task for workload in workloads))
    rows = [Spec(name, "ours", "ours", {}) for task in tasks for name in named(task)]
    if not options.bundle:  # whose rows have names of their own; preparing takes minutes
        check_names(rows, None, options.ours)

    def phases(record: Record) -> list[Phase]:
        with ThreadPoolExecutor(len(tasks) if options.together else 1) as pool:
            made = dict(zip(tasks, pool.map(lambda task: make(task, record), tasks), strict=True))
        mine = {task: [workload for workload in workloads if workload.task == task] for task in tasks}
        specs = {task: contenders(made[task], mine[task], options) for task in tasks}
        # a row whose bundle could not be made is not a mistake in a name
        check_names([*(spec for each in specs.values() for spec in each), *rows], options.peers, options.ours)
        return [make_phase(made[task], specs[task], mine[task], settings, options, record) for task in tasks]

    about = {"model": f"{options.precision} {' and '.join(MODELS.values())}", "gpu": machine.gpu()}
    try:
        run_suite("gpu", phases, settings, prefix, about)
    except PreparationError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
