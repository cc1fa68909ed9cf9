"""Answers and bundles as lines of text that fit a terminal."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xlm_runtime.bundle import Bundle
from xlm_runtime.tasks import TensorSpec

Rows = list[list[str]]

_ERRORS = {"max_absolute": "largest difference", "relative": "relative"}


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none, and not more than 120."""
    return max(20, min(120, shutil.get_terminal_size((80, 24)).columns))


def display_width(text: str) -> int:
    """Columns that a text takes: two for wide East Asian characters, none for combining marks."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def shorten(text: str, width: int) -> str:
    """The text on one line, cut to `width` columns with an ellipsis."""
    text = " ".join(text.split())
    if display_width(text) <= width:
        return text
    while text and display_width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def block(title: Any, rows: Rows, width: int) -> list[str]:
    """An input and, indented, its answer's rows in columns; the last column is cut to `width`."""
    if isinstance(title, Mapping):
        title = " | ".join(str(title[key]) for key in ("text", "text_pair", "prompt", "question") if title.get(key))
    lines = [shorten(str(title), width)]
    if not rows:
        return [*lines, "  (none)"]
    columns = [max(display_width(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell + " " * (size - display_width(cell)) for cell, size in zip(row, columns, strict=False)]
        start = "  " + "".join(cell + "  " for cell in cells)
        lines.append(start + shorten(row[-1], max(8, width - display_width(start))))
    return lines


def vector_rows(answer: Any) -> Rows:
    vectors = np.atleast_2d(answer)
    shape = " × ".join(map(str, answer.shape))
    head = " ".join(f"{value:.4f}" for value in vectors[0, :6])
    return [["shape", shape], ["norm", f"{float(np.linalg.norm(vectors[0])):.4f}"], ["begins", f"{head} …"]]


def mask_rows(answer: Any) -> Rows:
    if answer and isinstance(answer[0], list):
        return [[f"mask {number}", *row] for number, filled in enumerate(answer, start=1) for row in mask_rows(filled)]
    return [[f"{item['score']:.4f}", item["token_str"], item["sequence"]] for item in answer]


def label_rows(answer: Any) -> Rows:
    labels = [answer] if isinstance(answer, Mapping) else answer
    return [[f"{item['score']:.4f}", item["label"]] for item in labels]


def ranking_rows(answer: Any) -> Rows:
    return [[f"{score:.4f}", label] for label, score in zip(answer["labels"], answer["scores"], strict=True)]


def choice_rows(answer: Any) -> Rows:
    return [[f"{answer['score']:.4f}", f"choice {answer['index'] + 1}", answer["choice"]]]


def entity_rows(answer: Any) -> Rows:
    return [
        [
            f"{item['score']:.4f}",
            item.get("entity_group") or item["entity"],
            f"{item['start']}–{item['end']}",
            item["word"],
        ]
        for item in answer
    ]


def describe(bundle: Bundle) -> dict[str, Any]:
    """What `info` tells, as one JSON object: `bundle.json`, the configuration's numbers, languages and sizes."""
    config = bundle.config
    return {
        "folder": str(bundle.folder),
        **bundle.to_dict(),
        "sizes": {name: _size(bundle.folder / name) for name in bundle.files},
        "languages": list(config.lang2id or ()),
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
    ]  # fmt: skip
    if bundle.task in ("text-classification", "token-classification"):
        facts.append(("labels", ", ".join(config.id2label.values())))
    for graph in bundle.graphs:
        facts.append(("graph", f"{graph.file}: {graph.precision}, {graph.layout}, opset {graph.opset}"))
        facts.append(("  inputs", "; ".join(map(_tensor, graph.inputs))))
        facts.append(("  outputs", "; ".join(map(_tensor, graph.outputs))))
    facts.append(("conventions", _pairs(bundle.conventions)))
    facts += [("verification", line) for line in _verification(bundle.verification)]
    facts += [
        ("calibrated", f"{entry.get('date')} on {entry.get('gpu') or entry.get('cpu')}, {entry.get('threads')} threads")
        for entry in bundle.calibration
        if isinstance(entry, dict)
    ]
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
    default = (config.id2lang or {}).get(config.lang_id or 0, str(config.lang_id or 0))
    used = f"default {default}" if config.uses_langs else "the model does not read them"
    return f"{config.n_langs}: {names} ({used})"


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
