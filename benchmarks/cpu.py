"""The CPU benchmark, `python -m benchmarks cpu [options]`: this project's graphs beside its peers. docs/benchmarks.md
tells what is measured and how.

All weights are seeded, of the xnli15 configuration unless the options say otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prepare import (
    LAYOUTS,
    OPTIMUM,
    VARIANTS,
    PreparationError,
    Prepared,
    Size,
    code_folder,
    only_graph,
    prepare,
    prepare_checkpoint,
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
    may_be_chosen,
    read_options,
    report_prefix,
    run_suite,
)
from benchmarks.trained import CHECKPOINT, copy_checkpoint, measure_quality, read_pairs
from benchmarks.workloads import ALL_LOGITS, AT_MASK, CPU_WORKLOADS, OWN, PADDED_WAYS, Workload, fixed, mixed
from xlm_runtime.bundle import Bundle, file_sha256
from xlm_runtime.providers import PROVIDERS

QUICK = {"layers": 2, "dim": 256, "vocab": 2000}
OPTIMUM_INPUTS = "transformers, optimum's inputs"
HEADS = (AT_MASK, ALL_LOGITS)
PRECISIONS = ("int8", "bf16", "fp32")  # the slowest last
# Graphs of ours that take part unless --ours names others: the packed one of each recipe, the best of fixed lengths.
OURS = (
    "ours packed fp32 optimized ORT",
    "ours packed int8-dynamic ORT",
    "ours packed int8-dynamic optimized ORT",
    "ours packed int8-static ORT",
    "ours packed int8-static OV",
    "ours packed bf16 OV",
    "ours padded int8-static OV",
)


def transformers_spec(task: str, checkpoint: Path, precision: str, compiled: bool, name: str | None = None) -> Spec:
    options = {
        "checkpoint": str(checkpoint), "task": task, "precision": precision, "compile": compiled, "device": "cpu",
        "inputs": "optimum" if name == OPTIMUM_INPUTS else "all",
    }  # fmt: skip
    how = "torch.compile" if compiled else "transformers"
    ways = HEADS if task == "fill-mask" else PADDED_WAYS
    shown = name or f"{how} {precision}"
    about = "autocast" if precision == "bf16" else ""
    return Spec(shown, "peer", "transformers_model", options, ways, about, precision)


def peer_specs(made: Prepared) -> list[Spec]:
    """Peers that are there; the others are in `made.missing`."""
    task, ways = made.task, HEADS if made.task == "fill-mask" else PADDED_WAYS
    specs = [
        transformers_spec(task, made.checkpoint, precision, compiled)
        for compiled in (False, True)
        for precision in ("fp32", "bf16")
    ]

    def graph(
        name: str, precision: str, file: Path, engine: str, between: str, about: str, reference: str | None = None
    ) -> Spec:
        # `precision` is that of the products; OpenVINO computes in `between` what is not int8
        options = {"file": str(file), "engine": engine, "precision": between}
        # optimum's language model always computes all logits
        own_ways = HEADS[1:] if reference and task == "fill-mask" else ways
        return Spec(name, "peer", "graph_model", options, own_ways, about, precision, reference)

    if made.optimum is not None:
        for precision, file in (("fp32", "model.onnx"), ("int8", "model_quantized.onnx")):
            about = "its export takes no languages and adds token type 0" + (", dynamic" if precision == "int8" else "")
            specs.append(
                graph(
                    f"optimum {precision}", precision, made.optimum / file, "onnxruntime", "f32", about, OPTIMUM_INPUTS
                )
            )
    padded = made.bundles["padded fp32"] / "model.onnx"
    specs.append(graph("OpenVINO fp32", "fp32", padded, "openvino", "f32", "our padded export, all in fp32"))
    specs.append(graph("OpenVINO bf16", "bf16", padded, "openvino", "bf16", "our padded export, computed in bf16"))
    if made.openvino_int8 is not None:
        specs.append(
            graph("OpenVINO int8", "int8", made.openvino_int8, "openvino", "f32", "NNCF's static int8, padded")
        )
        about = "the same, bf16 between the products, as OpenVINO does it by default"
        specs.append(graph("OpenVINO int8 + bf16", "int8", made.openvino_int8, "openvino", "bf16", about))
    return specs


def our_specs(made: Prepared, given: Sequence[Path], views: Path) -> list[Spec]:
    """Every graph of every bundle with every CPU provider; the same graph is taken once."""
    bundles = [*made.bundles.items(), *((folder.name, folder) for folder in given)]
    providers = [name for name in ("cpu", "openvino") if name in PROVIDERS]
    specs: dict[str, Spec] = {}
    seen: set[str] = set()
    for name, folder in bundles:
        bundle = Bundle.load(folder)
        if bundle.task != made.task:
            continue
        # of a variant, the graph that its last step added
        for graph in bundle.graphs[-1:] if name in made.bundles else bundle.graphs:
            if (digest := bundle.files[graph.file]) in seen:
                continue
            seen.add(digest)
            view = only_graph(bundle, graph, views)
            shown = name if name in made.bundles else f"{name} {Path(graph.file).stem}"
            for provider in providers:
                if graph.target not in PROVIDERS[provider].targets:
                    continue
                if (graph.layout, graph.precision, graph.target, provider) == ("padded", "fp32", None, "openvino"):
                    continue  # the peer of that name
                options = {"bundle": str(view), "task": made.task, "provider": provider}
                ways = HEADS if made.task == "fill-mask" else (*PADDED_WAYS, OWN)
                title = f"ours {shown} {'ORT' if provider == 'cpu' else 'OV'}"
                about = f"{graph.layout} layout, {graph.file} of {folder.name}, provider {provider}"
                specs[title] = Spec(title, "ours", "ours", options, ways, about, graph.precision)
    return list(specs.values())


def contenders(made: Prepared, given: Sequence[Path]) -> list[Spec]:
    """All peers and graphs of ours for a task."""
    return [*peer_specs(made), *our_specs(made, given, made.folder / "views")]


def choose(specs: Sequence[Spec], options: argparse.Namespace) -> list[Spec]:
    """Those that --peers and --ours name; without --ours those of `OURS` and of the bundles that were given."""
    if options.ours is None:
        usual = (*OURS, *(f"ours {folder.name} " for folder in options.bundle))
        specs = [spec for spec in specs if spec.side != "ours" or spec.name.startswith(usual)]
    return choose_contenders(specs, options.peers, options.ours)


def bound_specs(layers: int, dim: int, vocab: int) -> list[Spec]:
    return [
        Spec(f"bound {precision}", "bound", "bare_products",
             {"precision": precision, "layers": layers, "dim": dim, "vocab": vocab}, (OWN,), "bare products", precision)
        for precision in PRECISIONS
    ]  # fmt: skip


def sampler(config: dict[str, Any], workload: Workload) -> Sample:
    return lambda rng: workload.draw(rng, config["vocab_size"], config["n_langs"])


def make_phases(
    task: str,
    made: Prepared,
    specs: Sequence[Spec],
    workloads: Sequence[Workload],
    settings: Settings,
    options: argparse.Namespace,
    record: Record,
) -> list[Phase]:
    """The chosen of a task's contenders, and its bounds: a phase for each precision, since all together need more than
    24 GB. All phases have the same draws."""
    for name, reason in made.missing.items():
        record({"kind": "missing", "contender": f"{name} ({made.task})", "reason": reason})
    config = json.loads((made.checkpoint / "config.json").read_text(encoding="utf-8"))
    words = config["vocab_size"] if task == "fill-mask" else 0
    chosen = [*bound_specs(config["n_layers"], config["emb_dim"], words), *choose(specs, options)]
    rng = np.random.default_rng(1)
    checked = Workload("check", "", mixed, task=task)
    rows = [row for _ in range(-(-settings.check_rows // 8)) for row in sampler(config, checked)(rng)[0]]
    first = sampler(config, Workload("first", "", fixed(1, 16), task=task))(rng)[0][0]
    return [
        Phase(
            task=task,
            specs=[spec for spec in chosen if spec.precision == precision],
            workloads=workloads,
            sample=lambda workload: sampler(config, workload),
            first=first,
            reference=[transformers_spec(task, made.checkpoint, "fp32", False)],
            references=[transformers_spec(task, made.checkpoint, "fp32", False, OPTIMUM_INPUTS)],
            checked=[rows],
            sizes={"layers": config["n_layers"], "dim": config["emb_dim"], "vocab": config["vocab_size"], "bytes": 4},
        )
        for precision in dict.fromkeys(spec.precision for spec in chosen)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cpu", description=__doc__)
    add_options(parser, "cpu")
    parser.add_argument("--optimum", type=Path, default=OPTIMUM, help="python of optimum's environment (%(default)s)")
    parser.add_argument("--variants", metavar="V,…", default=",".join(VARIANTS), help="graphs to make (%(default)s)")
    parser.add_argument(
        "--trained", type=Path, default=CHECKPOINT, help="trained classifier to measure quality with (%(default)s)"
    )
    options = read_options(parser, QUICK)
    if options is None:
        return
    settings = make_settings(options)
    workloads = choose_workloads(CPU_WORKLOADS, options.only)
    variants = [name.strip() for name in options.variants.split(",") if name.strip()]
    for name in variants:
        if name not in VARIANTS:
            raise SystemExit(f"Unknown variant '{name}'; expected some of {', '.join(VARIANTS)}.")
    prefix = report_prefix(options, "cpu")
    size = Size(layers=options.layers, dim=options.dim, vocab=options.vocab)

    def make(folder: Path, task: str, checkpoint: Path) -> Prepared:
        return prepare(
            folder,
            task,
            checkpoint,
            layouts=[layout for layout in LAYOUTS if may_be_chosen(options.ours, f"ours {layout}")],
            variants=variants,
            peers=options.peers != "",
            nncf=may_be_chosen(options.peers, "OpenVINO int8"),
            optimum=options.optimum,
            progress=print,
        )

    def phases(record: Record) -> list[Phase]:
        folder = options.work / size.folder
        made_by_code = code_folder(folder)
        tasks = dict.fromkeys(workload.task for workload in workloads)
        made = {task: make(made_by_code, task, prepare_checkpoint(folder, task, size)) for task in tasks}
        specs = {task: contenders(made[task], options.bundle) for task in tasks}
        check_names([spec for each in specs.values() for spec in each], options.peers, options.ours)
        return [
            phase
            for task in tasks
            for phase in make_phases(
                task,
                made[task],
                specs[task],
                [workload for workload in workloads if workload.task == task],
                settings,
                options,
                record,
            )
        ]

    def quality(record: Record, log: Path) -> None:
        from xlm_export import CheckpointError  # loads torch, so only behind the measurements
        from xlm_export.checkpoint.weights import weight_files

        try:
            weights = "".join(file_sha256(file) for file in weight_files(options.trained))
            folder = options.work / f"trained-{hashlib.sha256(weights.encode()).hexdigest()[:12]}"
            checkpoint = folder / "checkpoint"
            if not checkpoint.is_dir():
                copy_checkpoint(options.trained, checkpoint)
            made = make(code_folder(folder), "text-classification", checkpoint)
        except (CheckpointError, PreparationError) as error:
            record({"kind": "missing", "contender": "accuracy of a trained checkpoint", "reason": str(error)})
            return
        specs = choose(contenders(made, []), options)
        measure_quality(specs, read_pairs(checkpoint), made.task, settings, log, record, print)

    try:
        run_suite("cpu", phases, settings, prefix, {"model": size.folder}, after=quality)
    except PreparationError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
