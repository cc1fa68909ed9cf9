"""A pipeline's answers to a whole file, their figures, and the published files of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from xlm_runtime.bundle.atomic import drafts, json_text
from xlm_runtime.errors import InputError
from xlm_runtime.numerics import probabilities
from xlm_runtime.question_answering.beam import NO_SPAN_LOGIT, Decoding
from xlm_runtime.question_answering.features import Question
from xlm_runtime.question_answering.metrics import (
    MLQA_LANGUAGES,
    Normalizer,
    evaluate_squad1,
    evaluate_squad2,
    mlqa_normalizer,
    normalize_squad,
)
from xlm_runtime.question_answering.options import QuestionAnsweringOptions
from xlm_runtime.question_answering.squad_files import SquadFile

METRICS = ("squad", "mlqa")
N_BEST = 20
"""Answers of each question in `nbest_predictions.json`, as in SQuAD's scripts."""


class Decoder(Protocol):
    """What an evaluation needs of a pipeline."""

    has_beam: bool

    def decode(
        self, questions: Iterable[Question], options: QuestionAnsweringOptions, count: int
    ) -> Iterator[list[Decoding]]:
        """The `count` best spans of each question, in order."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """Figures, and what the three files hold: each question's answer, its n best, its null score."""

    figures: dict[str, float]
    predictions: dict[str, str]
    nbest: dict[str, list[dict[str, Any]]]
    null_odds: dict[str, float]

    def write(self, folder: str | Path) -> list[Path]:
        """Write `predictions.json`, `nbest_predictions.json` and `null_odds.json`; each appears when all are written.

        Returns:
            Their paths.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        contents: dict[str, Mapping[str, Any]] = {
            "predictions.json": self.predictions,
            "nbest_predictions.json": self.nbest,
            "null_odds.json": self.null_odds,
        }
        paths = [folder / name for name in contents]
        with drafts(*paths) as made:
            for draft, values in zip(made, contents.values(), strict=True):
                draft.write_text(json_text(values, indent=4), encoding="utf-8")
        return paths


def evaluate(
    pipeline: Decoder,
    data: SquadFile,
    options: QuestionAnsweringOptions,
    *,
    lang: str | None = None,
    question_lang: str | None = None,
    metric: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Answer every question of a file and compute its figures.

    Args:
        options: a file with questions without an answer allows "no answer" whatever the options say; the threshold
            is theirs. One answer is chosen whatever `top_k` says, and there is no `stride_check`.
        lang, question_lang: languages of contexts and questions; by default those of the file's name.
        metric: "squad", or "mlqa" for its normalisation of answers in `lang`; by default MLQA's for its own files.
        progress: called with the number of questions answered, after each.

    Raises:
        InputError: an unknown metric or language.
    """
    lang = data.lang if lang is None else lang
    question_lang = data.question_lang if question_lang is None else question_lang
    normalize: Normalizer = normalize_squad
    if metric not in (None, *METRICS):
        raise InputError(f"Unknown metric '{metric}'; expected one of {', '.join(METRICS)}.")
    if metric == "mlqa" or (metric is None and data.is_mlqa):
        if lang is None:
            raise InputError(f"MLQA's metric needs the answers' language, one of {', '.join(MLQA_LANGUAGES)}.")
        normalize = mlqa_normalizer(lang)
    predictions: dict[str, str] = {}
    best_answers: dict[str, str] = {}
    nbest: dict[str, list[dict[str, Any]]] = {}
    null_odds: dict[str, float] = {}
    names = ("start_log_prob", "end_log_prob") if pipeline.has_beam else ("start_logit", "end_logit")
    for identifier, context, decoding in _decodings(pipeline, data, options, lang, question_lang):
        nbest[identifier] = _nbest(context, decoding, names, data.with_impossible)
        best = context[decoding.spans[0].start : decoding.spans[0].end] if decoding.spans else ""
        best_answers[identifier] = best
        impossible = data.with_impossible and decoding.null_score > options.null_score_diff_threshold
        predictions[identifier] = "" if impossible else best
        null_odds[identifier] = decoding.null_score
        if progress is not None:
            progress(len(predictions))
    if data.with_impossible:
        figures = evaluate_squad2(data.examples, predictions, null_odds, best_answers, normalize)
    else:
        figures = evaluate_squad1(data.examples, predictions, normalize)
    return Evaluation(figures, predictions, nbest, null_odds)


def _decodings(
    pipeline: Decoder,
    data: SquadFile,
    options: QuestionAnsweringOptions,
    lang: str | None,
    question_lang: str | None,
) -> Iterator[tuple[str, str, Decoding]]:
    """(id, context, decoding) of each question, in order."""
    questions = (Question(item.question, item.context, lang, question_lang) for item in data.examples)
    answers = pipeline.decode(questions, options, N_BEST)
    for example, (decoding, *_) in zip(data.examples, answers, strict=True):
        yield example.id, example.context, decoding


def _nbest(context: str, decoding: Decoding, names: tuple[str, str], with_null: bool) -> list[dict[str, Any]]:
    """A question's best answers as published: distinct texts, probabilities that sum to 1 over the list."""
    entries: dict[str, tuple[float, float]] = {}
    for span in decoding.spans:
        entries.setdefault(context[span.start : span.end], (span.start_logit, span.end_logit))
    if with_null and decoding.null_terms is not None:
        entries[""] = decoding.null_terms
    if not entries:
        entries[""] = (NO_SPAN_LOGIT / 2, NO_SPAN_LOGIT / 2)
    ranked = sorted(entries.items(), key=lambda item: -sum(item[1]))
    # "no answer" is in the published list however low it is
    ranked = ranked[:N_BEST] + [item for item in ranked[N_BEST:] if item[0] == ""]
    logits = np.array([sum(terms) for _, terms in ranked])
    return [
        {"text": text, "probability": float(share), names[0]: terms[0], names[1]: terms[1]}
        for (text, terms), share in zip(ranked, probabilities(logits), strict=True)
    ]
