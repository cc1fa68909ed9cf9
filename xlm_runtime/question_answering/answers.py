"""Decoded spans as the answers that the pipeline returns."""

from __future__ import annotations

from typing import TypedDict

from xlm_runtime.question_answering.beam import NO_SPAN_LOGIT, Decoding
from xlm_runtime.question_answering.options import QuestionAnsweringOptions


class StrideCheck(TypedDict):
    """The best answer with another stride, and whether it is the same span."""

    doc_stride: int
    same: bool
    score: float
    start: int
    end: int
    answer: str
    logit: float


class _Answer(TypedDict):
    score: float
    start: int
    end: int
    answer: str
    logit: float
    null_score: float


class SpanAnswer(_Answer, total=False):
    """An answer, `context[start:end] == answer`; "no answer" is the empty span at 0.

    `score` is its probability. `logit` is the raw score, by which answers from several contexts are ranked.
    `null_score` tells how much speaks for "no answer", the same for all answers of a question. `stride_check` is
    there for the best answer when it was asked for.
    """

    stride_check: StrideCheck


Answer = SpanAnswer | list[SpanAnswer]


def is_no_answer(decoding: Decoding, options: QuestionAnsweringOptions) -> bool:
    """Whether the answer is that there is none: it is allowed and above the threshold, or there is no span."""
    impossible = options.handle_impossible_answer and decoding.null_score > options.null_score_diff_threshold
    return impossible or not decoding.spans


def rank_answers(context: str, decoding: Decoding, options: QuestionAnsweringOptions) -> list[SpanAnswer]:
    """The decoding's spans as answers, best first, with "no answer" among them where it is allowed."""
    answers: list[SpanAnswer] = [
        {
            "score": span.score,
            "start": span.start,
            "end": span.end,
            "answer": context[span.start : span.end],
            "logit": span.logit,
            "null_score": decoding.null_score,
        }
        for span in decoding.spans
    ]
    if not options.handle_impossible_answer and answers:
        return answers
    null: SpanAnswer = {
        "score": decoding.null_probability,
        "start": 0,
        "end": 0,
        "answer": "",
        "logit": decoding.null_logit if options.handle_impossible_answer else NO_SPAN_LOGIT,
        "null_score": decoding.null_score,
    }
    if is_no_answer(decoding, options):
        return [null, *answers]
    # the threshold decided against it, so that it is at best the second
    place = next((i for i, item in enumerate(answers) if i and item["score"] < null["score"]), len(answers))
    return [*answers[:place], null, *answers[place:]]


def shape_answer(context: str, decodings: list[Decoding], options: QuestionAnsweringOptions) -> Answer:
    """What the pipeline returns for a question: its decoding, and a second one for `stride_check`."""
    answers = rank_answers(context, decodings[0], options)[: options.top_k]
    best = answers[0]
    for decoding, stride in zip(decodings[1:], (options.stride_check or 0,), strict=False):
        other = rank_answers(context, decoding, options)[0]
        best["stride_check"] = {
            "doc_stride": stride,
            "same": (best["start"], best["end"]) == (other["start"], other["end"]),
            "score": other["score"],
            "start": other["start"],
            "end": other["end"],
            "answer": other["answer"],
            "logit": other["logit"],
        }
    return best if options.top_k == 1 else answers
