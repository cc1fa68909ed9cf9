"""A question and a context → the windows that the model reads: `<s> question </s> part of the context </s>`.

The windows of BERT's SQuAD script (Devlin et al. 2019), with the question first, as XLM is trained: each begins
`doc_stride` tokens behind the one before, and all have the whole question.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from xlm_runtime.errors import InputError
from xlm_runtime.question_answering.options import SPECIAL_TOKENS, QuestionAnsweringOptions
from xlm_runtime.tokenization import XLMTokenizer

CONTEXTS_KEPT = 16


@dataclass(frozen=True)
class Question:
    """A question on a context. `question_lang` is for questions in another language than the context's."""

    question: str
    context: str
    lang: str | None = None
    question_lang: str | None = None


@dataclass(frozen=True, eq=False)
class ContextTokens:
    """A tokenised context of n tokens.

    Attributes:
        text: the context.
        ids: n ids.
        spans: (n, 2) int64, each token's first character in `text` and the one behind its last.
        answerable: (n,) bool, False for special tokens written in the text and for tokens without characters.
    """

    text: str
    ids: list[int]
    spans: NDArray[np.int64]
    answerable: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Window:
    """A question and `count` tokens of its context, from its token `offset` on.

    `first` is the position of the first context token in `input_ids`; `cls_index` the position of the token that
    stands for "no answer"; `lang_id` the number of the context's language, and `question_lang_id` of the language of
    everything before it.
    """

    context: ContextTokens
    input_ids: list[int]
    first: int
    offset: int
    count: int
    cls_index: int
    lang_id: int
    question_lang_id: int

    @property
    def second(self) -> int:
        return self.first

    def __len__(self) -> int:
        return len(self.input_ids)


class WindowBuilder:
    """Makes windows; a context that comes again and again is tokenised once. Threads may share it.

    Args:
        tokenizer: the bundle's.
        cls_convention: "first-sep", "last" or "first", see `CLS_INDEX_CONVENTIONS`.
    """

    def __init__(self, tokenizer: XLMTokenizer, cls_convention: str) -> None:
        self._tokenizer = tokenizer
        self._cls_convention = cls_convention
        self._contexts: OrderedDict[tuple[str, str | None], ContextTokens] = OrderedDict()
        self._lock = Lock()
        edges = (tokenizer.bos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
        self._special_ids = [token_id for token_id in edges if token_id is not None]

    def windows(
        self,
        question: str,
        context: str,
        options: QuestionAnsweringOptions,
        *,
        lang: str | None = None,
        lang_id: int = 0,
        question_lang: str | None = None,
        question_lang_id: int | None = None,
    ) -> list[Window]:
        """At least one window; an empty context gives one with nothing to answer with.

        Args:
            lang, lang_id: language of the context and its number.
            question_lang, question_lang_id: those of the question; by default the context's.

        Raises:
            InputError: a question without words, an unknown language.
        """
        language = lang if question_lang is None else question_lang
        question_ids = self._question_ids(question, language)[: options.max_question_len]
        tokens = self._context_tokens(context, lang)
        room = options.max_seq_len - len(question_ids) - SPECIAL_TOKENS
        made: list[Window] = []
        for start, stop in window_ranges(len(tokens.ids), room, options.doc_stride):
            input_ids = self._tokenizer.build_inputs_with_special_tokens(question_ids, tokens.ids[start:stop])
            made.append(
                Window(
                    context=tokens,
                    input_ids=input_ids,
                    first=len(question_ids) + 2,
                    offset=start,
                    count=stop - start,
                    cls_index=self._cls_index(input_ids),
                    lang_id=lang_id,
                    question_lang_id=lang_id if question_lang_id is None else question_lang_id,
                )
            )
        return made

    def _question_ids(self, question: str, lang: str | None) -> list[int]:
        ids = self._tokenizer.encoder.ids(question, lang)
        if not ids:
            raise InputError(f"The question {question[:40]!r} has no words.")
        return ids

    def _context_tokens(self, context: str, lang: str | None) -> ContextTokens:
        key = (context, lang)
        with self._lock:
            tokens = self._contexts.get(key)
            if tokens is not None:
                self._contexts.move_to_end(key)
        if tokens is None:
            row = self._tokenizer.encoder.ids_and_offsets(context, lang)
            spans = np.array(row.spans, dtype=np.int64).reshape(-1, 2)
            answerable = (spans[:, 1] > spans[:, 0]) & ~np.isin(row.ids, self._special_ids)
            tokens = ContextTokens(context, row.ids, spans, answerable)
            with self._lock:
                self._contexts[key] = tokens
                if len(self._contexts) > CONTEXTS_KEPT:
                    self._contexts.popitem(last=False)
        return tokens

    def _cls_index(self, input_ids: list[int]) -> int:
        if self._cls_convention == "first":
            return 0
        if self._cls_convention == "last":
            return len(input_ids) - 1
        return input_ids.index(input_ids[-1])  # the sequence ends with </s>


def window_ranges(count: int, room: int, stride: int) -> list[tuple[int, int]]:
    """(start, stop) of windows of at most `room` tokens over `count`, `stride` apart; the last reaches the end."""
    ranges = [(0, min(count, room))]
    while ranges[-1][1] < count:
        start = ranges[-1][0] + stride
        ranges.append((start, min(count, start + room)))
    return ranges


def window_inputs(windows: Sequence[Window], mask_cls: bool) -> dict[str, NDArray[np.float32] | NDArray[np.int64]]:
    """`p_mask` (windows, longest) float32, 1 for what cannot be an answer, and `cls_index` (windows,) int64."""
    p_mask = np.ones((len(windows), max(map(len, windows))), np.float32)
    for row, window in zip(p_mask, windows, strict=True):
        answerable = window.context.answerable[window.offset : window.offset + window.count]
        row[window.first : window.first + window.count] = ~answerable
        if not mask_cls:
            row[window.cls_index] = 0
    return {"p_mask": p_mask, "cls_index": np.array([window.cls_index for window in windows], np.int64)}


def window_langs(windows: Sequence[Window]) -> NDArray[np.int64]:
    """`langs` (windows, longest): the question's language up to the context, then the context's."""
    langs = np.zeros((len(windows), max(map(len, windows))), np.int64)
    for row, window in zip(langs, windows, strict=True):
        row[: window.first] = window.question_lang_id
        row[window.first :] = window.lang_id
    return langs
