"""The main job: a checkpoint becomes a bundle."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from xlm_export.bundle_folder import check_place, write_bundle
from xlm_export.bundle_writer import SECTIONS, exported_graph
from xlm_export.checkpoint.checkpoint import Checkpoint, load_checkpoint, load_source
from xlm_export.checkpoint.generation import checked_generation_config
from xlm_export.checkpoint.languages import set_languages
from xlm_export.checkpoint.opening import open_source
from xlm_export.checkpoint.tokenizer_files import checkpoint_tokenizer
from xlm_export.errors import VerificationError
from xlm_export.families.table import export_family
from xlm_export.onnx_graph.file import save
from xlm_export.progress import Progress, Steps
from xlm_export.tracing.graph import TORCH_DTYPES, ExportGraph
from xlm_export.tracing.trace import DEFAULT_OPSET, trace
from xlm_export.verification.against_torch import verify_bundle
from xlm_export.verification.report import VerificationReport
from xlm_runtime.bundle import CLS_INDEX_CONVENTIONS, LANGS_INPUT, Bundle, Graph, file_sha256
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.families import family_of
from xlm_runtime.generation.config_file import GENERATION_FILE
from xlm_runtime.machine import installed_versions
from xlm_runtime.tasks import OPTIONAL_INPUTS, PRESENT, find_task, uses_cache, with_full_logits
from xlm_runtime.tokenization import XLMTokenizer

PRECISIONS = tuple(TORCH_DTYPES)
LIBRARIES = ("xlm-onnx", "torch", "onnx", "onnxscript", "sacremoses", "onnxruntime")


def export(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    task: str | None = None,
    precision: str = "fp32",
    opset: int = DEFAULT_OPSET,
    inputs: tuple[str, ...] = (),
    hidden_states: bool = False,
    attentions: bool = False,
    cache: bool | None = None,
    layout: str | None = "padded",
    external_data: bool = False,
    cls_index: str = "first-sep",
    langs: str = LANGS_INPUT,
    default_lang: str | None = None,
    full_logits: bool = False,
    tokenizer: str | Path | None = None,
    codes: str | Path | None = None,
    vocab: str | Path | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    verify: bool = True,
    force: bool = False,
    progress: Progress | None = None,
) -> Bundle:
    """Trace a checkpoint into a bundle and verify it. The folder appears whole or not at all.

    Args:
        checkpoint: a folder as `save_pretrained` writes it, a hub id, `id@revision`, or a `.pth` file of XLM's original
            code.
        bundle: the folder to write.
        task: a task name; by default the checkpoint's architecture decides, and for a language model whether it is
            causal (text-generation) or not (fill-mask).
        precision: "fp32", "fp16" or "bf16".
        opset: version of ONNX's operators.
        inputs: optional inputs: "token_type_ids", "position_ids", "inputs_embeds" (instead of "input_ids").
        hidden_states, attentions: add each layer's to the outputs.
        cache: let the graph of a text-generation task take and give keys and values; by default on a causal checkpoint,
            and an error on another.
        layout: "padded", or "packed": without padding, see `xlm_runtime.model.packing`. None: packed, and padded where
            the graph keeps a cache, which packed ones cannot.
        external_data: weights in a file of their own; always so above 2 GB.
        cls_index: where the checkpoint was trained to look for "no answer", for the beam head: "first-sep", "last" or
            "first".
        langs: "input" for a graph that reads each token's language; "none" or a language for one that reads none,
            because no text gets a language embedding, or all get this one. See docs/languages.md.
        default_lang: with "input", the language embedding of texts whose language nobody names; by default what
            `config.json` says, or none.
        full_logits: let a language model's graph score every token, as other programs expect, and not those at
            `logit_positions` alone.
        tokenizer: a folder or hub id with the tokenizer, where the checkpoint has none or another one is meant; also
            with fastBPE's `codes` and XLM's `vocab`.
        codes, vocab: of a `.pth` file: fastBPE's codes, and the vocabulary, which the file has itself and is compared
            with.
        revision, subfolder: see `load_checkpoint`.
        verify: compare the graph with torch. If it fails the bundle stays, marked as failed.
        force: replace a bundle that is already there, with all its graphs; other files in its folder stay.
        progress: see `Progress`.

    Raises:
        InputError: an unknown option, or the folder is already there.
        CheckpointError: see `load_checkpoint`; tokens or languages that the weights have no embedding for.
        VerificationError: the graph's outputs are over the limit.
    """
    steps = Steps(progress, 3)
    target = Path(bundle)
    _check_options(precision, cls_index)
    check_place(target, force)
    steps("load the checkpoint")
    with open_source(checkpoint, revision, subfolder, codes=codes, vocab=vocab) as source:
        words = checkpoint_tokenizer(source, tokenizer)  # before the weights: what is refused is refused at once
        loaded = load_source(source, task)
        task_row = find_task(loaded.architecture, task, loaded.config.causal)
        cached = uses_cache(task_row, loaded.config, cache)
        if layout is None:
            layout = "padded" if cached else "packed"
        if full_logits:
            task_row = with_full_logits(task_row, layout)
        set_languages(loaded, words, langs, default_lang)
        generates = task_row.name == "text-generation"
        generation = checked_generation_config(source.folder, loaded.config) if generates else None
    graph = ExportGraph(loaded.model, task_row, inputs, hidden_states, attentions, cached, layout)
    steps("trace the graph")
    model = trace(graph, precision, opset)
    model.producer_name, model.producer_version = "xlm-onnx", importlib.metadata.version("xlm-onnx")
    model.metadata_props.update(
        {"task": task_row.name, "architecture": loaded.architecture, "precision": precision, "layout": layout}
    )
    with write_bundle(target, force) as folder:
        steps("write the bundle")
        save(model, folder / "model.onnx", external_data)
        del model
        if generation is not None:
            (folder / GENERATION_FILE).write_text(generation, encoding="utf-8")
        written = _write_rest(folder, loaded, graph, words, Graph(
            "model.onnx", precision, layout, opset, graph.inputs, graph.outputs
        ), langs, cls_index)  # fmt: skip
        report = None
        if verify:
            report = verify_bundle(written, graph, words, steps)
            written = replace(written, verification=report.to_dict())
            written.write()
    written = replace(written, folder=target)
    if report is not None and report.failures:
        raise VerificationError(f"The bundle '{target}' is marked as failed.\n{report.table()}")
    return written


def verify(bundle: str | Path, checkpoint: str | Path, progress: Progress | None = None) -> VerificationReport:
    """Compare a bundle's exported graph with its checkpoint and note the outcome in the bundle.

    Raises:
        InputError: the bundle has no graph that torch can be compared with.
        BundleError, CheckpointError: files that are missing or damaged.
    """
    steps = Steps(progress, 1)
    written = Bundle.load(bundle, accept_failed=True)
    written.check_files()
    steps("load the checkpoint")
    loaded = load_checkpoint(checkpoint, written.task)
    entry = exported_graph(written)
    names = tuple(spec.name for spec in entry.inputs)
    optional = tuple(name for name in OPTIONAL_INPUTS if name in names)
    if entry.is_packed:  # always has positions
        optional = tuple(name for name in optional if name != "position_ids")
    outputs = {spec.name for spec in entry.outputs}
    cached = any(name.startswith(PRESENT) for name in outputs)
    tokenizer = family_of(loaded.config).read_tokenizer(bundle)
    set_languages(loaded, tokenizer, written.conventions.get("langs", LANGS_INPUT))
    task_row = find_task(loaded.architecture, written.task)
    if task_row.kept == "logit_positions" and not entry.is_packed and "logit_positions" not in names:
        task_row = with_full_logits(task_row)
    shown = ("hidden_states.0" in outputs, "attentions.0" in outputs)
    graph = ExportGraph(loaded.model, task_row, optional, *shown, cached, entry.layout)
    if graph.inputs != entry.inputs or graph.outputs != entry.outputs:
        raise InputError(
            f"The checkpoint '{checkpoint}' ({loaded.architecture}) gives another graph than the bundle '{bundle}' "
            f"({written.architecture}) holds; give the checkpoint that it was exported from."
        )
    report = verify_bundle(written, graph, tokenizer, steps)

    def note(now: Bundle) -> Bundle:  # others may have written meanwhile
        if now.digest(entry) != written.digest(entry):
            raise BundleError(f"The graph '{entry.file}' of the bundle '{bundle}' was replaced while it was verified; "
                              "try again.")  # fmt: skip
        others = {key: value for key, value in now.verification.items() if key in SECTIONS}
        return replace(now, verification=report.to_dict() | others)

    Bundle.update(bundle, note)
    return report


def _write_rest(
    folder: Path,
    loaded: Checkpoint,
    graph: ExportGraph,
    tokenizer: XLMTokenizer,
    entry: Graph,
    langs: str,
    cls_index: str,
) -> Bundle:
    """Everything beside the graph: configuration, tokenizer, table of contents."""
    (folder / "config.json").write_text(json.dumps(loaded.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    export_family(loaded.config).write_tokenizer(tokenizer, folder)
    conventions: dict[str, Any] = {"uses_langs": loaded.config.uses_langs, "langs": langs}
    if "cls_index" in (spec.name for spec in graph.inputs):
        conventions["cls_index"] = cls_index
    bundle = Bundle(
        folder=folder,
        task=graph.task.name,
        architecture=loaded.architecture,
        graphs=(entry,),
        files={path.name: file_sha256(path) for path in sorted(folder.iterdir())},
        source={"checkpoint": loaded.source, "sha256": loaded.sha256, "new_weights": list(loaded.new_weights)},
        versions=installed_versions(LIBRARIES),
        conventions=conventions,
        verification={"status": "not run"},
        config=loaded.config,
    )
    bundle.write()
    return bundle


def _check_options(precision: str, cls_index: str) -> None:
    if precision not in PRECISIONS:
        raise InputError(f"Unknown precision '{precision}'; expected one of {', '.join(PRECISIONS)}.")
    if cls_index not in CLS_INDEX_CONVENTIONS:
        raise InputError(f"Unknown cls_index '{cls_index}'; expected one of {', '.join(CLS_INDEX_CONVENTIONS)}.")
