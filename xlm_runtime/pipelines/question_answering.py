"""Answers to questions, as spans of the contexts they are asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.model.batching import answer_groups
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines.base import Answers, Languages, Pipeline, is_column, read_mapping
from xlm_runtime.pipelines.on_error import FailedItem, try_each
from xlm_runtime.question_answering.answers import Answer, shape_answer
from xlm_runtime.question_answering.beam import Decoding, decode_beam, decode_simple
from xlm_runtime.question_answering.features import Question, Window, WindowBuilder, window_inputs, window_langs
from xlm_runtime.question_answering.options import QuestionAnsweringOptions, resolve_options
from xlm_runtime.sessions import Array

# transformers' SQuAD features, which the simple head was trained on, put "no answer" there
_SIMPLE_HEAD_CLS = "first-sep"


@dataclass(frozen=True)
class QuestionWindow:
    """A window, its question, and which of the strides it belongs to."""

    question: Question
    stride: int
    window: Window

    def __len__(self) -> int:
        return len(self.window)


class QuestionAnsweringPipeline(Pipeline[QuestionAnsweringOptions, QuestionWindow, dict[str, Array], Answer]):
    """Extractive question answering, for the beam head and the simple one.

    Raises:
        BundleError: the bundle does not say where the beam head looks for "no answer".
    """

    input_keys = ("question", "context", "lang", "question_lang")

    def __init__(self, model: BundleModel) -> None:
        super().__init__(model)
        self.has_beam = "start_top_index" in {spec.name for spec in model.graph.outputs}
        convention = model.bundle.conventions.get("cls_index", None if self.has_beam else _SIMPLE_HEAD_CLS)
        if convention is None:
            raise BundleError(
                f"The bundle '{model.bundle.folder}' does not record its cls_index convention; export it again."
            )
        self._windows = WindowBuilder(model.tokenizer, str(convention))

    def __call__(
        self,
        inputs: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        lang: Languages = None,
        top_k: int = 1,
        max_seq_len: int | None = None,
        doc_stride: int | None = None,
        max_question_len: int | None = None,
        max_answer_len: int = 30,
        handle_impossible_answer: bool = False,
        null_score_diff_threshold: float = 0.0,
        mask_cls: bool = True,
        stride_check: int | None = None,
        on_error: str = "raise",
    ) -> Answers[Answer]:
        """For each question its best answer, or with `top_k` above 1 a list, the best first.

        Args:
            inputs: dictionaries with "question", "context" and optionally "lang" and "question_lang", or questions
                on the one `context`.
            question: the same as `inputs`, by transformers' name.
            context: of all questions that come without one of their own, or a list with one for each.
            lang: language of all, or a list with one for each.
            top_k: how many answers; fewer come where there are not as many.
            max_seq_len, doc_stride, max_question_len, max_answer_len, handle_impossible_answer,
                null_score_diff_threshold, mask_cls, stride_check: see `QuestionAnsweringOptions`; lengths are in
                tokens and by default 384, 128 and 64, less where the model has fewer positions.
            on_error: "raise", "skip" or "return" for an input that cannot be used, see `Pipeline.answer`.

        Raises:
            InputError: options that contradict each other, a question without words or without a context, an unknown
                language.
        """
        options = resolve_options(
            self.model.config.max_position_embeddings,
            longest_row=self.model.longest_row(),
            max_seq_len=max_seq_len,
            doc_stride=doc_stride,
            max_question_len=max_question_len,
            max_answer_len=max_answer_len,
            top_k=top_k,
            handle_impossible_answer=handle_impossible_answer,
            null_score_diff_threshold=null_score_diff_threshold,
            mask_cls=mask_cls,
            stride_check=stride_check,
            context=context if isinstance(context, str) else None,
        )
        return self.answer(_asked(inputs, question, context), lang=lang, on_error=on_error, options=options)

    def preprocess(self, item: Any, lang: str | None, options: QuestionAnsweringOptions) -> list[QuestionWindow]:
        return self._question_windows(read_question(item, options.context, lang), options)

    def forward(
        self, batch: list[QuestionWindow], options: QuestionAnsweringOptions
    ) -> Callable[[], list[dict[str, Array]]]:
        """For each window its row of each of the graph's outputs."""
        windows = [row.window for row in batch]
        extra: dict[str, Array] = {}
        if self.has_beam:
            extra.update(window_inputs(windows, options.mask_cls))
        if self.model.languages.read:
            extra["langs"] = window_langs(windows)
        wait = self.model.start(windows, extra)

        def rows() -> list[dict[str, Array]]:
            outputs = wait()
            return [{name: value[i] for name, value in outputs.items()} for i in range(len(batch))]

        return rows

    def postprocess(
        self, rows: Sequence[QuestionWindow], outputs: Sequence[dict[str, Array]], options: QuestionAnsweringOptions
    ) -> Answer:
        decodings = self._decodings(rows, outputs, options, options.top_k)
        return shape_answer(rows[0].question.context, decodings, options)

    def decode(
        self, questions: Iterable[Question], options: QuestionAnsweringOptions, count: int
    ) -> Iterator[list[Decoding]]:
        """The `count` best spans of each question, in order: one decoding, and a second one for `stride_check`.

        Windows of different questions share batches by length; a context that comes again is tokenised once.

        Raises:
            InputError: a question without words, an unknown language; the error numbers the question.
        """
        rows = try_each(questions, lambda question: self._question_windows(question, options), "raise")
        return answer_groups(
            (group for group in rows if not isinstance(group, FailedItem)),
            lambda batch: self.forward(batch, options),
            lambda rows, outputs: self._decodings(rows, outputs, options, count),
            self.batching,
        )

    def _question_windows(self, item: Question, options: QuestionAnsweringOptions) -> list[QuestionWindow]:
        languages = self.model.languages
        lang_id = languages.number(item.lang)
        question_lang_id = None if item.question_lang is None else languages.number(item.question_lang)
        return [
            QuestionWindow(item, number, window)
            for number, stride in enumerate(options.strides())
            for window in self._windows.windows(
                item.question,
                item.context,
                stride,
                lang=item.lang,
                lang_id=lang_id,
                question_lang=item.question_lang,
                question_lang_id=question_lang_id,
            )
        ]

    def _decodings(
        self,
        rows: Sequence[QuestionWindow],
        outputs: Sequence[dict[str, Array]],
        options: QuestionAnsweringOptions,
        count: int,
    ) -> list[Decoding]:
        """A decoding for each stride."""
        decodings = []
        for number in range(len(options.strides())):
            mine = [(row.window, output) for row, output in zip(rows, outputs, strict=True) if row.stride == number]
            decodings.append(
                self.decode_windows([each[0] for each in mine], [each[1] for each in mine], options, count)
            )
        return decodings

    def decode_windows(
        self,
        windows: list[Window],
        outputs: list[dict[str, Array]],
        options: QuestionAnsweringOptions,
        count: int,
    ) -> Decoding:
        """The `count` best spans of one question from the graph's outputs for its windows, a row for each."""
        if not self.has_beam:
            return decode_simple(
                windows,
                outputs,
                max_answer_len=options.max_answer_len,
                count=count,
                with_null=options.handle_impossible_answer,
            )
        return decode_beam(
            windows,
            outputs,
            start_n_top=self.model.config.start_n_top,
            end_n_top=self.model.config.end_n_top,
            max_answer_len=options.max_answer_len,
            count=count,
            with_null=options.handle_impossible_answer,
        )


def read_question(item: Any, context: str | None, lang: str | None) -> Question:
    """A question out of a dictionary, or a string that is asked about `context`.

    Raises:
        InputError: a missing or empty question, a missing context, an unknown key.
    """
    if isinstance(item, str):
        item = {"question": item}
    values = read_mapping(item, ("question",), ("context", "lang", "question_lang"))
    text = values.get("context", context)
    question: str = values["question"]
    if text is None:
        raise InputError(
            f"The question '{question[:40]}' has no context; give context=..., or a dictionary with the keys "
            "question, context and, if it matters, lang."
        )
    if not question.strip():
        raise InputError("The question is empty; give at least one word.")
    return Question(question, text, values.get("lang", lang), values.get("question_lang"))


def _asked(inputs: Any, question: Any, context: Any) -> Any:
    """What `respond` reads: one question, or many."""
    if (inputs is None) == (question is None):
        raise InputError("Give questions once: as inputs, or as question=... with context=...")
    asked = question if inputs is None else inputs
    if context is None or isinstance(context, str):
        return asked
    if isinstance(asked, str):
        asked = list(repeat(asked, len(context)))
    if not is_column(asked) or len(asked) != len(context):
        found = len(asked) if is_column(asked) else "a stream of"
        raise InputError(f"{found} questions were given with {len(context)} contexts; give one for each.")
    if not all(isinstance(item, str) for item in asked):
        raise InputError("A list of contexts goes with a list of questions, not of dictionaries.")
    return [{"question": item, "context": text} for item, text in zip(asked, context, strict=True)]
