"""`xlm-runtime question-answering`: its options and its table."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from xlm_runtime.cli.arguments import number, whole_number
from xlm_runtime.cli.inputs import text_option
from xlm_runtime.model.model import BundleModel
from xlm_runtime.question_answering.options import QuestionAnsweringOptions, resolve_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the command for single questions."""
    parser.add_argument("--question", action="append", metavar="TEXT", help="a question; repeat it for more")
    parser.add_argument(
        "--context",
        type=text_option,
        metavar="TEXT",
        help="what all questions without a context of their own are about",
    )
    parser.add_argument(
        "--top-k", type=whole_number, default=1, metavar="N", help="answers for each question (default: 1)"
    )
    parser.add_argument(
        "--stride-check", type=whole_number, metavar="N", help="also answer with this doc_stride, and compare"
    )
    add_window_options(parser)
    parser.add_argument("--handle-impossible-answer", action="store_true", help="the answer may be that there is none")


def add_window_options(parser: argparse.ArgumentParser) -> None:
    """Options that single questions and evaluations share."""
    for name, text in (
        ("--max-seq-len", "tokens of a window (default: 384, or the model's positions)"),
        ("--doc-stride", "tokens from one window's start to the next (default: 128)"),
        ("--max-question-len", "tokens of a question; more are cut off (default: 64)"),
    ):
        parser.add_argument(name, type=whole_number, metavar="N", help=text)
    parser.add_argument(
        "--max-answer-len", type=whole_number, default=30, metavar="N", help="tokens of an answer (default: 30)"
    )
    parser.add_argument(
        "--null-score-diff-threshold",
        type=number,
        default=0.0,
        metavar="X",
        help="null score of no answer (default: 0)",
    )
    parser.add_argument("--open-cls", action="store_true", help="leave the cls token out of p_mask")


def read_window_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_window_options` added, as keyword arguments of `resolve_options`."""
    return {
        "max_seq_len": args.max_seq_len,
        "doc_stride": args.doc_stride,
        "max_question_len": args.max_question_len,
        "max_answer_len": args.max_answer_len,
        "null_score_diff_threshold": args.null_score_diff_threshold,
        "mask_cls": not args.open_cls,
    }


def read_options(args: argparse.Namespace) -> Callable[[BundleModel], QuestionAnsweringOptions]:
    """What `add_options` added, as the pipeline's options for an opened model."""
    return lambda model: resolve_options(
        model.config.max_position_embeddings,
        longest_row=model.longest_row(),
        context=args.context,
        top_k=args.top_k,
        stride_check=args.stride_check,
        handle_impossible_answer=args.handle_impossible_answer,
        **read_window_options(args),
    )


def answer_rows(answer: Any) -> list[list[str]]:
    """Rows of a table: probability, place in the context, answer."""
    rows = []
    for item in [answer] if isinstance(answer, Mapping) else answer:
        rows.append([f"{item['score']:.4f}", f"{item['start']}–{item['end']}", item["answer"] or "(no answer)"])
        if "stride_check" in item:
            other = item["stride_check"]
            found = "the same" if other["same"] else other["answer"] or "(no answer)"
            rows.append(["", f"stride {other['doc_stride']}", found])
    return rows
