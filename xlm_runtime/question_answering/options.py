"""The options of question answering, checked once against each other and the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from xlm_runtime.errors import InputError

SPECIAL_TOKENS = 3
"""`<s> question </s> context </s>`."""

_MAX_SEQ_LEN, _DOC_STRIDE, _MAX_QUESTION_LEN = 384, 128, 64


@dataclass(frozen=True)
class QuestionAnsweringOptions:
    """How a context is cut into windows and how answers are chosen. Lengths are in tokens.

    Attributes:
        max_seq_len: a window's length, with question and special tokens.
        doc_stride: how far a window begins behind the one before, as in SQuAD's scripts: windows share
            `max_seq_len - 3 - question - doc_stride` tokens of context.
        max_question_len: questions are cut to their first tokens.
        max_answer_len: longest answer.
        top_k: how many answers for each question.
        handle_impossible_answer: whether "no answer" can be the answer.
        null_score_diff_threshold: the null score above which it is.
        mask_cls: whether the token at `cls_index` is masked as all special tokens are. transformers' SQuAD features
            left it open in training, so that it took the probability of windows without an answer.
        stride_check: another `doc_stride` to answer with beside, or None.
        context: of all questions that come without one of their own.

    Raises:
        InputError: an option out of range, or a stride that is not smaller than the window it moves.
    """

    max_seq_len: int
    doc_stride: int
    max_question_len: int
    max_answer_len: int = 30
    top_k: int = 1
    handle_impossible_answer: bool = False
    null_score_diff_threshold: float = 0.0
    mask_cls: bool = True
    stride_check: int | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        counts = ["max_seq_len", "doc_stride", "max_question_len", "max_answer_len", "top_k"]
        for name in counts if self.stride_check is None else [*counts, "stride_check"]:
            _check_count(name, getattr(self, name))
        threshold = self.null_score_diff_threshold
        if not isinstance(threshold, (int, float)) or math.isnan(threshold):
            raise InputError(f"null_score_diff_threshold is {threshold!r}; expected a number.")
        window = self.max_seq_len - self.max_question_len - SPECIAL_TOKENS
        if window < 1:
            raise InputError(
                f"max_seq_len {self.max_seq_len} leaves no room for the context beside max_question_len "
                f"{self.max_question_len} and {SPECIAL_TOKENS} special tokens; enlarge the one or reduce the other."
            )
        for name in ("doc_stride", "stride_check"):
            stride = getattr(self, name)
            if stride is not None and stride >= window:
                raise InputError(
                    f"{name} {stride} is not smaller than the window: max_seq_len {self.max_seq_len} leaves {window} "
                    f"tokens of context beside a question of {self.max_question_len} (max_question_len) and "
                    f"{SPECIAL_TOKENS} special tokens, so that answers between windows would be lost. Give a {name} "
                    f"of at most {window - 1}."
                )
        if self.stride_check == self.doc_stride:
            raise InputError(f"stride_check {self.stride_check} is the doc_stride itself; give another one.")

    def strides(self) -> list[QuestionAnsweringOptions]:
        """The options, and where there is a `stride_check` those with that stride beside."""
        if self.stride_check is None:
            return [self]
        return [self, replace(self, doc_stride=self.stride_check, stride_check=None)]


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} is {value!r}; expected a positive number.")


def resolve_options(
    positions: int,
    *,
    longest_row: int | None = None,
    max_seq_len: int | None = None,
    doc_stride: int | None = None,
    max_question_len: int | None = None,
    max_answer_len: int = 30,
    top_k: int = 1,
    handle_impossible_answer: bool = False,
    null_score_diff_threshold: float = 0.0,
    mask_cls: bool = True,
    stride_check: int | None = None,
    context: str | None = None,
) -> QuestionAnsweringOptions:
    """Options for a model of `positions` positions, which reads rows of `longest_row` tokens unless asked otherwise.

    Lengths that are None become 384, 128 and 64, as in SQuAD's scripts, and smaller where the model or the other
    lengths ask for it.

    Raises:
        InputError: as `QuestionAnsweringOptions`, and windows longer than the model's positions.
    """
    length = min(_MAX_SEQ_LEN, longest_row or positions) if max_seq_len is None else max_seq_len
    _check_count("max_seq_len", length)
    if length > positions:
        raise InputError(f"max_seq_len {length} is more than the {positions} positions of the model.")
    if max_question_len is None:
        max_question_len = max(1, min(_MAX_QUESTION_LEN, (length - SPECIAL_TOKENS) // 3))
    _check_count("max_question_len", max_question_len)
    if doc_stride is None:
        doc_stride = max(1, min(_DOC_STRIDE, (length - max_question_len - SPECIAL_TOKENS) // 2))
    return QuestionAnsweringOptions(
        max_seq_len=length,
        doc_stride=doc_stride,
        max_question_len=max_question_len,
        max_answer_len=max_answer_len,
        top_k=top_k,
        handle_impossible_answer=handle_impossible_answer,
        null_score_diff_threshold=null_score_diff_threshold,
        mask_cls=mask_cls,
        stride_check=stride_check,
        context=context,
    )
