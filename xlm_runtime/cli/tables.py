"""Answers as lines of text that fit a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Mapping
from typing import Any

import numpy as np

Rows = list[list[str]]

# the keys of an input that its title shows
_TITLE = ("id", "text", "words", "text_pair", "prompt", "question")


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none, and not more than 120."""
    return max(20, min(120, shutil.get_terminal_size((80, 24)).columns))


def display_width(text: str) -> int:
    """Columns that a text takes: two for wide East Asian characters, none for combining marks."""
    return sum(map(_columns, text))


def _columns(char: str) -> int:
    return 0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """The text on one line, cut to `width` columns with an ellipsis. What lies beyond is not measured."""
    text = " ".join(text.split())
    columns = kept = 0
    for place, char in enumerate(text, start=1):
        columns += _columns(char)
        if columns < width:
            kept = place
        elif columns > width:
            return text[:kept].rstrip() + "…"
    return text


def block(title: Any, rows: Rows, width: int) -> list[str]:
    """An input and, indented, its answer's rows in columns; the last column is cut to `width`."""
    if isinstance(title, Mapping):
        title = " | ".join(_plain(title[key]) for key in _TITLE if title.get(key) not in (None, ""))
    lines = [shorten(str(title), width)]
    if not rows:
        return [*lines, "  (none)"]
    columns = [max(display_width(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell + " " * (size - display_width(cell)) for cell, size in zip(row, columns, strict=False)]
        start = "  " + "".join(cell + "  " for cell in cells)
        lines.append(start + shorten(row[-1], max(8, width - display_width(start))))
    return lines


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


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
