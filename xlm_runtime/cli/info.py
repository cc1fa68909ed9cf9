"""`xlm-runtime info`: what a bundle holds."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import LANGS_INPUT, LANGS_NONE, Bundle, Graph
from xlm_runtime.bundle.timings import is_whole
from xlm_runtime.cli.tables import terminal_width
from xlm_runtime.tasks import TensorSpec

_ERRORS = {"max_absolute": "largest difference", "relative": "relative"}


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with `add_parser` of the commands."""
    parser = add("info", description="What a bundle holds.")
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the facts, also those of a bundle that failed its verification."""
    bundle = Bundle.load(args.bundle, accept_failed=True)
    if args.json:
        print(json.dumps(describe(bundle), ensure_ascii=False, indent=2))
    else:
        print("\n".join(info_lines(bundle, terminal_width())))
    return 0


def describe(bundle: Bundle) -> dict[str, Any]:
    """What `info` tells, as one JSON object: `bundle.json`, the configuration's numbers, languages and sizes."""
    config = bundle.config
    return {
        "folder": str(bundle.folder),
        **bundle.to_dict(),
        "sizes": {name: _size(bundle.folder / name) for name in bundle.files},
        "languages": list(config.lang2id or ()),
        "without_lang": _without_lang(bundle),
        "labels": list(config.id2label.values()),
        "config": {
            name: getattr(config, name)
            for name in ("vocab_size", "emb_dim", "n_layers", "n_heads", "n_langs", "max_position_embeddings", "causal")
        },
    }


def info_lines(bundle: Bundle, width: int) -> list[str]:
    """What `info` tells, as lines: names on the left, wrapped values on the right."""
    config = bundle.config
    facts: list[tuple[str, str]] = [
        ("bundle", str(bundle.folder)),
        ("task", f"{bundle.task} ({bundle.architecture})"),
        ("model", f"{config.n_layers} layers × {config.emb_dim}, {config.n_heads} heads, {config.vocab_size} words, "
                  f"{config.max_position_embeddings} positions" + (", causal" if config.causal else "")),
        ("languages", _languages(bundle)),
        ("without lang", _without_lang(bundle)),
    ]  # fmt: skip
    if bundle.task in ("text-classification", "token-classification"):
        facts.append(("labels", ", ".join(config.id2label.values())))
    for graph in bundle.graphs:
        facts.append(("graph", f"{graph.file}: {_kind(graph)}, opset {graph.opset}"))
        facts.append(("  inputs", "; ".join(map(_tensor, graph.inputs))))
        facts.append(("  outputs", "; ".join(map(_tensor, graph.outputs))))
    facts += [("made for", ", ".join(bundle.providers))] if bundle.providers else []
    facts.append(("conventions", _pairs(bundle.conventions)))
    facts += [("verification", line) for line in _verification(bundle.verification)]
    facts += [("timed", _timed(entry)) for entry in bundle.timings]
    facts.append(("source", _pairs(bundle.source)))
    facts.append(("written by", _pairs(bundle.versions)))
    for name in bundle.files:
        size = _size(bundle.folder / name)
        facts.append(("file", f"{name}, {_readable(size)}" if size is not None else f"{name}, missing"))
    lines: list[str] = []
    column = max(len(name) for name, _ in facts) + 2
    previous = ""
    for name, value in facts:
        shown = "" if name == previous else name
        wrapped = textwrap.wrap(value or "none", max(20, width - column)) or [""]
        lines += [f"{shown:{column}}{wrapped[0]}", *(" " * column + line for line in wrapped[1:])]
        previous = name
    return [line.rstrip() for line in lines]


def _languages(bundle: Bundle) -> str:
    config = bundle.config
    if config.n_langs == 1 and not config.lang2id:
        return "one, not named"
    names = ", ".join(config.lang2id) if config.lang2id else "not named"
    return f"{config.n_langs}: {names}"


def _without_lang(bundle: Bundle) -> str:
    """What a text gets whose language nobody names."""
    config, langs = bundle.config, bundle.conventions.get("langs")
    if not config.uses_langs:
        fixed = langs is not None and langs not in (LANGS_INPUT, LANGS_NONE)
        return f"the language embedding of {langs}, as every text" if fixed else "no language embedding, as every text"
    if config.default_lang is not None:
        return f"the language embedding of {config.default_lang}, its default_lang"
    if bundle.knows_no_lang and bundle.task != "text-generation":
        return "no language embedding, as in transformers without langs"
    if bundle.knows_no_lang and config.lang_id is None:
        return "no language embedding, as in transformers' generate"
    number = config.lang_id or 0
    name = (config.id2lang or {}).get(number, f"language {number}")
    return f"the language embedding of {name}, its lang_id"


def _verification(report: Mapping[str, Any]) -> list[str]:
    """The status, and each output's largest difference from torch; whatever else the report holds is left out."""
    lines = [f"{report['status']}" + (f" with provider {report['provider']}" if report.get("provider") else "")]
    outputs = report.get("outputs")
    for name, numbers in outputs.items() if isinstance(outputs, Mapping) else ():
        if not isinstance(numbers, Mapping):
            continue
        agreement = numbers.get("argmax_agreement")
        shown = [f"{numbers[key]:.1e} {what}" for key, what in _ERRORS.items() if isinstance(numbers.get(key), float)]
        shown += [f"argmax agreement {agreement:.4f}"] if isinstance(agreement, float) else []
        lines.append(f"{name}: {', '.join(shown)}")
    failures = report.get("failures")
    return lines + [f"failed: {failure}" for failure in (failures if isinstance(failures, list) else ())]


def _timed(entry: Any) -> str:
    if not is_whole(entry):
        return "a damaged record; run `xlm-runtime autotune` again"
    return f"{entry['date']} on {entry['gpu'] or entry['cpu']}, {entry['threads']} threads"


def _kind(graph: Graph) -> str:
    """Precision, layout, and where there are any recipe and target."""
    made = f" by {graph.recipe}" if graph.recipe else ""
    return f"{graph.precision}{made}, {graph.layout}" + (f", for {graph.target}" if graph.target else "")


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} ({', '.join(spec.axes)})"


def _pairs(values: Mapping[str, Any]) -> str:
    """Nested mappings as "a: 1, b.c: 2"."""
    flat: list[str] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += [f"{key}.{line}" for line in _pairs(value).split(", ")] if value else []
        else:
            flat.append(f"{key}: {value}")
    return ", ".join(flat)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _readable(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    for unit, factor in (("kB", 1e3), ("MB", 1e6)):
        if size < 1000 * factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e9:.2f} GB"
