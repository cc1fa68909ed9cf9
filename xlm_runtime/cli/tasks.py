"""`xlm-runtime TASK BUNDLE [TEXT…|-]`: a command for each task, all run in one way."""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from xlm_runtime.cli import commands, question_answering, tables, text_generation
from xlm_runtime.cli.arguments import whole_number, whole_number_or_all
from xlm_runtime.cli.provider_options import add_provider_options, open_pipeline
from xlm_runtime.errors import InputError, XLMError
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines.base import Pipeline
from xlm_runtime.pipelines.feature_extraction import POOLINGS, FeatureExtractionOptions
from xlm_runtime.pipelines.fill_mask import FillMaskOptions
from xlm_runtime.pipelines.multiple_choice import MultipleChoiceOptions
from xlm_runtime.pipelines.text_classification import FUNCTIONS, TextClassificationOptions
from xlm_runtime.pipelines.token_classification import AGGREGATIONS, TokenClassificationOptions
from xlm_runtime.pipelines.zero_shot_classification import ZeroShotClassificationOptions, split_labels


@dataclass(frozen=True)
class Command:
    """A task on the command line.

    Args:
        add: adds the task's own options.
        options: from the parsed arguments, before the bundle is opened, to the pipeline's options for an opened model.
        rows: an answer → the rows of its table.
        texts: finds further texts among the options.
        truncates: whether texts can be cut.
        answering: the pipeline, or another one that it holds, see `text_generation`.
        stream: prints texts as they appear; None where there is nothing to stream.
    """

    add: Callable[[argparse.ArgumentParser], None]
    options: Callable[[argparse.Namespace], Callable[[BundleModel], Any]]
    rows: Callable[[Any], list[list[str]]]
    texts: Callable[[argparse.Namespace], list[str]] = lambda args: []
    truncates: bool = True
    answering: Callable[[Any, argparse.Namespace], Pipeline[Any, Any, Any, Any]] = lambda pipe, args: pipe
    stream: Callable[[Any, Iterable[Any], str | None, Any], None] | None = None


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add a command for each task with `add_parser` of the commands."""
    for task, command in COMMANDS.items():
        parser = add(task, description=commands.COMMANDS[task].help)
        parser.set_defaults(run=run, task=task, parser=parser)
        parser.add_argument("bundle", metavar="BUNDLE", help="folder written by `xlm-export export`")
        parser.add_argument(
            "texts",
            metavar="TEXT",
            nargs="*",
            help="texts; - (or nothing, behind a pipe) reads lines: plain text, or JSON objects with the keys of the "
            "pipeline's inputs, such as text, text_pair and lang",
        )
        command.add(parser)
        parser.add_argument("--lang", help="language of the texts; by default the model's own")
        if command.truncates:
            parser.add_argument("--truncation", action="store_true", help="cut texts that are too long for the model")
        parser.add_argument("--json", action="store_true", help="print one JSON value a line instead of a table")
        add_provider_options(parser)
        parser.add_argument(
            "--unbuffered", action="store_true", help="answer each line before the next is read, instead of in batches"
        )


def run(args: argparse.Namespace) -> int:
    """Answer the texts, or the lines of standard input, and print each answer as it is there."""
    command = COMMANDS[args.task]
    args.texts += command.texts(args)
    from_stdin = args.texts == ["-"] or (not args.texts and not sys.stdin.isatty())
    if not args.texts and not from_stdin:
        raise InputError("No text was given; write it behind the bundle, or - to read lines from standard input.")
    options_of = command.options(args)
    pipe = open_pipeline(args.task, args)
    options = options_of(pipe.model)
    inputs: Iterable[Any] = _read_lines(sys.stdin.buffer) if from_stdin else args.texts
    shown: deque[Any] = deque()
    count = 0
    try:
        if command.stream is not None and args.stream:
            command.stream(pipe, inputs, args.lang, options)
            return 0
        answering = command.answering(pipe, args)
        one_by_one = args.unbuffered or sys.stdin.isatty()
        for answer in _answers(answering, _noting(inputs, shown), args.lang, options, one_by_one):
            text = shown.popleft()
            if args.json:
                print(json.dumps(answer, ensure_ascii=False, default=_plain))
            else:
                lines = tables.block(text, command.rows(answer), tables.terminal_width())
                print("\n".join(lines))
            if args.unbuffered:
                sys.stdout.flush()
            count += 1
    except XLMError as error:
        if from_stdin:
            raise InputError(f"line {count + 1}: {error}") from error
        raise
    return 0


def _answers(
    answering: Pipeline[Any, Any, Any, Any], inputs: Iterator[Any], lang: str | None, options: Any, one_by_one: bool
) -> Iterator[Any]:
    if one_by_one:
        for item in inputs:
            yield answering.answer(item, lang=lang, options=options)
    else:
        yield from answering.answer(inputs, lang=lang, options=options)


def _noting(inputs: Iterable[Any], shown: deque[Any]) -> Iterator[Any]:
    """The inputs; what the table shows of each is put into `shown`."""
    for item in inputs:
        shown.append(item)
        yield item


def _read_lines(stream: Any) -> Iterator[Any]:
    """Lines as text, or as objects where they begin with a brace.

    Raises:
        InputError: a line that is not UTF-8, or begins as an object and is none.
    """
    for raw in stream:
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise InputError(f"not UTF-8 ({error.reason} at byte {error.start}).") from error
        if not line.lstrip().startswith("{"):
            yield line
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            raise InputError(
                f"not a JSON object: {error}. (A line that begins with a brace is read as JSON.)"
            ) from error


def _plain(value: Any) -> Any:
    """Arrays for JSON, with the nine digits that float32 has at most."""
    if value.ndim > 1:
        return [_plain(row) for row in value]
    return [float(f"{number:.9g}") for number in value.tolist()]


def _fixed(options: Any) -> Callable[[BundleModel], Any]:
    """Options that are the same for every model."""
    return lambda model: options


def _add_feature_extraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pooling", choices=POOLINGS, default="none", help="one vector a text: of all tokens or one")
    parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1")


def _add_fill_mask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=whole_number, default=5, metavar="N", help="tokens for each mask (default: 5)")
    parser.add_argument("--target", action="append", metavar="WORD", help="choose among these; can be repeated")


def _add_text_classification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=whole_number_or_all, default=1, metavar="N", help="labels, or all (default: 1)")
    parser.add_argument("--function-to-apply", choices=FUNCTIONS, help="default: what the checkpoint asks for")


def _add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--labels", required=True, metavar="A,B", help="candidate labels, commas between them")
    parser.add_argument("--hypothesis-template", default="This example is {}.", metavar="SENTENCE")
    parser.add_argument("--multi-label", action="store_true", help="score each label by itself")


def _add_multiple_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--choice", action="append", metavar="TEXT", help="a choice; repeat it for each")


def _add_token_classification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--aggregation-strategy", choices=AGGREGATIONS, default="none", help="join tokens to groups")


COMMANDS = {
    "feature-extraction": Command(
        _add_feature_extraction,
        lambda args: _fixed(FeatureExtractionOptions(args.pooling, args.normalize, args.truncation)),
        tables.vector_rows,
    ),
    "fill-mask": Command(
        _add_fill_mask,
        lambda args: _fixed(FillMaskOptions(args.top_k, tuple(args.target) if args.target else None, args.truncation)),
        tables.mask_rows,
    ),
    "text-generation": Command(
        text_generation.add_options,
        lambda args: _fixed(text_generation.read_options(args)),
        text_generation.answer_rows,
        truncates=False,
        answering=lambda pipe, args: pipe.scoring if args.score else pipe,
        stream=text_generation.stream,
    ),
    "text-classification": Command(
        _add_text_classification,
        lambda args: _fixed(TextClassificationOptions(args.top_k, args.function_to_apply, args.truncation)),
        tables.label_rows,
    ),
    "zero-shot-classification": Command(
        _add_zero_shot,
        lambda args: _fixed(
            ZeroShotClassificationOptions(
                split_labels(args.labels), args.hypothesis_template, args.multi_label, args.truncation
            )
        ),
        tables.ranking_rows,
    ),
    "multiple-choice": Command(
        _add_multiple_choice,
        lambda args: _fixed(MultipleChoiceOptions(args.choice, args.truncation)),
        tables.choice_rows,
    ),
    "token-classification": Command(
        _add_token_classification,
        lambda args: _fixed(TokenClassificationOptions(args.aggregation_strategy, truncation=args.truncation)),
        tables.entity_rows,
    ),
    "question-answering": Command(
        question_answering.add_options,
        question_answering.read_options,
        question_answering.answer_rows,
        texts=lambda args: args.question or [],
        truncates=False,
    ),
}
