"""The task's own metric on labelled data, through the pipeline that users call.

Text and token classification, multiple choice and fill-mask: JSON lines, each with what the pipeline takes and the
right answer; accuracy. Question answering: a SQuAD file; F1. Text generation: JSON lines with "text"; minus the
perplexity, so that more is better everywhere.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from xlm_runtime.errors import InputError
from xlm_runtime.pipelines import pipeline
from xlm_runtime.question_answering.evaluate import evaluate
from xlm_runtime.question_answering.options import resolve_options
from xlm_runtime.question_answering.squad_files import SquadFile, read_squad

Data = SquadFile | list[dict[str, Any]]
"""Labelled data: a SQuAD file, or the lines of others."""

# task → the metric's name, the key of the right answer
METRICS = {
    "text-classification": ("accuracy", "label"),
    "token-classification": ("accuracy", "labels"),
    "multiple-choice": ("accuracy", "label"),
    "fill-mask": ("accuracy", "answer"),
    "text-generation": ("-perplexity", ""),
    "question-answering": ("F1", ""),
}


def read_data(task: str, path: Path) -> Data:
    """What a data file holds: of a SQuAD file its questions, of others the lines.

    Raises:
        InputError: no such file, a task without a metric, or a line that lacks what it needs.
    """
    if task not in METRICS:
        raise InputError(f"The task {task} has no metric on labelled data; leave out --data.")
    if not path.is_file():
        raise InputError(f"File '{path}' not found; give labelled data for {task}.")
    if task == "question-answering":
        return read_squad(path)
    key = METRICS[task][1]
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"Line {number} of '{path}' is not JSON ({error}).") from error
        if not isinstance(row, dict) or (key and key not in row):
            raise InputError(
                f"Line {number} of '{path}' has no \"{key}\"; expected an input of the pipeline for {task} and its "
                f'right answer under "{key}".'
            )
        rows.append(row)
    if not rows:
        raise InputError(f"File '{path}' holds no line; expected JSON lines.")
    return rows


def measure(task: str, folder: Path, precision: str, provider: str, data: Data) -> float:
    """The metric of one of a bundle's graphs; more is better."""
    return score(pipeline(task, folder, provider, precision=precision), task, data)


def score(answer: Any, task: str, data: Data, *, with_languages: bool = True) -> float:
    """The metric of an opened pipeline; more is better.

    Args:
        data: what `read_data` returned.
        with_languages: give the pipeline the languages that the data names.
    """
    if isinstance(data, SquadFile):
        positions, longest = answer.model.config.max_position_embeddings, answer.model.longest_row()
        if not with_languages:
            data = replace(data, lang=None, question_lang=None)
        return float(evaluate(answer, data, resolve_options(positions, longest_row=longest)).figures["f1"])
    key = METRICS[task][1]
    keys = [name for name in answer.input_keys if with_languages or name != "lang"]
    asked = [{name: value for name, value in row.items() if name in keys} for row in data]
    if task == "text-generation":
        scores = answer.score(asked)
        tokens = sum(len(score["token_log_probs"]) for score in scores)
        likelihood = float(sum(score["log_likelihood"] for score in scores))
        return -math.exp(-likelihood / tokens)
    if task == "token-classification":
        return _token_accuracy(answer(asked, ignore_labels=()), data)
    got = [_choice(task, item) for item in answer(asked)]
    right = [item == row[key] for item, row in zip(got, data, strict=True)]
    return float(sum(right) / len(right))


def _choice(task: str, answer: Any) -> Any:
    if task == "fill-mask":
        return answer[0]["token_str"]
    return answer["index"] if task == "multiple-choice" else answer["label"]


def _token_accuracy(answers: list[list[dict[str, Any]]], rows: list[dict[str, Any]]) -> float:
    right = total = 0
    for number, (tokens, row) in enumerate(zip(answers, rows, strict=True), 1):
        if len(tokens) != len(row["labels"]):
            raise InputError(f"Text {number} has {len(tokens)} tokens and {len(row['labels'])} labels; give one label "
                             "for each token, as the pipeline with ignore_labels=() gives them.")  # fmt: skip
        right += sum(token["entity"] == label for token, label in zip(tokens, row["labels"], strict=True))
        total += len(tokens)
    return right / max(1, total)
