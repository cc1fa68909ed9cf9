"""`xlm-runtime TASK BUNDLE [TEXT…|-]`: a command for each task, all run in one way."""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from xlm_runtime.cli import commands, files, inputs, question_answering, tables, text_generation
from xlm_runtime.cli.arguments import whole_number, whole_number_or_all
from xlm_runtime.cli.provider_options import add_provider_options, open_pipeline
from xlm_runtime.errors import InputError
from xlm_runtime.jobs.items import Item
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.pipelines.base import Pipeline
from xlm_runtime.pipelines.feature_extraction import POOLINGS, FeatureExtractionOptions
from xlm_runtime.pipelines.fill_mask import FillMaskOptions
from xlm_runtime.pipelines.multiple_choice import MultipleChoiceOptions
from xlm_runtime.pipelines.on_error import ON_ERROR, FailedItem, try_each
from xlm_runtime.pipelines.text_classification import FUNCTIONS, TextClassificationOptions
from xlm_runtime.pipelines.token_classification import AGGREGATIONS, TokenClassificationOptions
from xlm_runtime.pipelines.zero_shot_classification import ZeroShotClassificationOptions, split_labels

EXIT_SOME_FAILED = 3


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
        stream: prints the text for one input as it appears; None where there is nothing to stream.
    """

    add: Callable[[argparse.ArgumentParser], None]
    options: Callable[[argparse.Namespace], Callable[[BundleModel], Any]]
    rows: Callable[[Any], list[list[str]]]
    texts: Callable[[argparse.Namespace], list[str]] = lambda args: []
    truncates: bool = True
    answering: Callable[[Any, argparse.Namespace], Pipeline[Any, Any, Any, Any]] = lambda pipe, args: pipe
    stream: Callable[[Any, Any, str | None, Any], None] | None = None


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add a command for each task with `add_parser` of the commands."""
    for task, command in COMMANDS.items():
        parser = add(task, description=commands.COMMANDS[task].help)
        parser.set_defaults(run=run, task=task, parser=parser)
        parser.add_argument(
            "bundle", metavar="BUNDLE", help="folder written by `xlm-export export`, or its address (s3://…, https://…)"
        )
        parser.add_argument(
            "texts",
            metavar="TEXT",
            nargs="*",
            help="texts; - (or nothing, behind a pipe) reads lines: plain text, or JSON objects with the keys of the "
            "pipeline's inputs, such as text, text_pair and lang; other keys, such as id, come back with the answer",
        )
        command.add(parser)
        parser.add_argument("--lang", help="language of the texts; by default the model's own")
        if command.truncates:
            parser.add_argument("--truncation", action="store_true", help="cut texts that are too long for the model")
            parser.add_argument(
                "--max-length", type=whole_number, metavar="N", help="most tokens of a row (default: the model's)"
            )
        parser.add_argument("--json", action="store_true", help="print one JSON value a line instead of a table")
        parser.add_argument(
            "--on-error",
            choices=ON_ERROR,
            default="raise",
            help="at a text that cannot be used: end; leave it out; or print the error in the answer's place. "
            f"The last two go on, and exit with {EXIT_SOME_FAILED} (default: raise)",
        )
        files.add_file_options(parser)
        add_provider_options(parser)
        parser.add_argument(
            "--unbuffered", action="store_true", help="answer each line before the next is read, instead of in batches"
        )


def run(args: argparse.Namespace) -> int:
    """Answer the texts, or the lines of standard input, and print each answer as it is there; or those of a file.

    Returns:
        The exit code: 0, or `EXIT_SOME_FAILED`.
    """
    command = COMMANDS[args.task]
    args.texts += command.texts(args)
    if args.input is not None or args.output is not None:
        command.options(args)  # what contradicts itself is said before anything is opened
        failed = files.run(args, open_answering, PIPELINES[args.task].load().input_keys)
        return EXIT_SOME_FAILED if failed else 0
    if unused := [name for name in files.FILE_OPTIONS if getattr(args, name)]:
        raise InputError(f"--{unused[0].replace('_', '-')} is for files; give --input and --output, too.")
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    from_stdin = args.texts == ["-"] or not (args.texts or on_terminal)
    if not args.texts and not from_stdin:
        raise InputError("No text was given; write it behind the bundle, or - to read lines from standard input.")
    if from_stdin and sys.stdin is None:
        raise InputError("Standard input is closed; write texts behind the bundle, or give lines through a pipe.")
    answering, options = open_answering(args)
    if args.unbuffered or on_terminal:
        answering.batching = replace(answering.batching, window_rows=1)
    items = inputs.from_lines(answering.input_keys) if from_stdin else inputs.from_arguments(args.texts)
    taken: deque[Item] = deque()
    # a printed line needs its input, so that those left out have answers, too
    on_error = "raise" if args.on_error == "raise" else "return"
    failed, first = 0, None
    answers: Any
    try:
        if command.stream is not None and args.stream:
            answers = _stream(command.stream, answering, _noting(items, taken), args.lang, options, on_error)
        else:
            answers = answering.answer(_noting(items, taken), lang=args.lang, on_error=on_error, options=options)
        for answer in answers:
            item = taken.popleft()
            if isinstance(answer, FailedItem):
                failed, first = failed + 1, first or answer
            if answer is not None and not (args.on_error == "skip" and isinstance(answer, FailedItem)):
                print(item.json_line(answer) if args.json else _as_table(command, item, answer))
            if args.unbuffered:
                sys.stdout.flush()
    except InputError as error:
        if error.item is None:
            raise
        where = f"line {error.item}: " if from_stdin else f"text {error.item}: " if len(args.texts) > 1 else ""
        raise InputError(where + error.message) from error
    if first is None:
        return 0
    if args.on_error == "skip":
        where = f"{'line' if from_stdin else 'text'} {first.item}: {first.message}"
        print(f"xlm-runtime: {failed} left out, the first is {where}", file=sys.stderr)
    return EXIT_SOME_FAILED


def open_answering(args: argparse.Namespace) -> tuple[Pipeline[Any, Any, Any, Any], Any]:
    """Open the bundle: the pipeline that answers, and the options that it takes."""
    command = COMMANDS[args.task]
    options_of = command.options(args)
    pipe = open_pipeline(args.task, args)
    return command.answering(pipe, args), options_of(pipe.model)


def _stream(
    show: Callable[[Any, Any, str | None, Any], None],
    pipe: Any,
    given: Iterable[Any],
    lang: str | None,
    options: Any,
    on_error: str,
) -> Iterator[FailedItem | None]:
    """Print the text for each input; gives what could not be used."""

    def show_one(item: Any) -> None:
        if isinstance(item, InputError):
            raise item
        show(pipe, item, lang, options)

    return try_each(given, show_one, on_error)


def _noting(items: Iterable[Item], taken: deque[Item]) -> Iterator[Any]:
    """What the pipeline is asked; each item is put into `taken`, for when its answer is there."""
    for item in items:
        taken.append(item)
        yield item.given


def _as_table(command: Command, item: Item, answer: Any) -> str:
    rows = [["error", answer.message]] if isinstance(answer, FailedItem) else command.rows(answer)
    return "\n".join(tables.block(item.shown, rows, tables.terminal_width()))


def _fixed(options: Any) -> Callable[[BundleModel], Any]:
    """Options that are the same for every model."""
    return lambda model: options


def _add_feature_extraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pooling", choices=POOLINGS, default="none", help="one vector a text: of all tokens or one")
    parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1")
    _add_stride(parser)


def _add_fill_mask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=whole_number, default=5, metavar="N", help="tokens for each mask (default: 5)")
    parser.add_argument(
        "--target", type=inputs.text_option, action="append", metavar="WORD", help="choose among these; can be repeated"
    )


def _add_text_classification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=whole_number_or_all, default=1, metavar="N", help="labels, or all (default: 1)")
    parser.add_argument("--function-to-apply", choices=FUNCTIONS, help="default: what the checkpoint asks for")


def _add_zero_shot(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--labels", type=inputs.text_option, required=True, metavar="A,B", help="candidate labels, commas between them"
    )
    parser.add_argument(
        "--hypothesis-template", type=inputs.text_option, default="This example is {}.", metavar="SENTENCE"
    )
    parser.add_argument("--multi-label", action="store_true", help="score each label by itself")


def _add_multiple_choice(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--choice", type=inputs.text_option, action="append", metavar="TEXT", help="a choice; repeat it for each"
    )


def _add_token_classification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--aggregation-strategy", choices=AGGREGATIONS, default="none", help="join tokens to groups")
    parser.add_argument(
        "--ignore-labels", metavar="A,B", default="O", help="labels that are left out, '' for none (default: O)"
    )
    _add_stride(parser)


def _add_stride(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stride",
        type=whole_number,
        metavar="N",
        help="read texts that are too long in windows, which share so many tokens",
    )


COMMANDS = {
    "feature-extraction": Command(
        _add_feature_extraction,
        lambda args: _fixed(
            FeatureExtractionOptions(args.pooling, args.normalize, args.truncation, args.max_length, args.stride)
        ),
        tables.vector_rows,
    ),
    "fill-mask": Command(
        _add_fill_mask,
        lambda args: _fixed(
            FillMaskOptions(args.top_k, tuple(args.target) if args.target else None, args.truncation, args.max_length)
        ),
        tables.mask_rows,
    ),
    "text-generation": Command(
        text_generation.add_options,
        text_generation.read_options,
        text_generation.answer_rows,
        truncates=False,
        answering=lambda pipe, args: pipe.scoring if args.score else pipe,
        stream=text_generation.stream,
    ),
    "text-classification": Command(
        _add_text_classification,
        lambda args: _fixed(
            TextClassificationOptions(args.top_k, args.function_to_apply, args.truncation, args.max_length)
        ),
        tables.label_rows,
    ),
    "zero-shot-classification": Command(
        _add_zero_shot,
        lambda args: _fixed(
            ZeroShotClassificationOptions(
                split_labels(args.labels),
                args.hypothesis_template,
                args.multi_label,
                args.truncation,
                args.max_length,
            )
        ),
        tables.ranking_rows,
    ),
    "multiple-choice": Command(
        _add_multiple_choice,
        lambda args: _fixed(MultipleChoiceOptions(args.choice, args.truncation, args.max_length)),
        tables.choice_rows,
    ),
    "token-classification": Command(
        _add_token_classification,
        lambda args: _fixed(
            TokenClassificationOptions(
                args.aggregation_strategy,
                split_labels(args.ignore_labels),
                args.truncation,
                args.max_length,
                args.stride,
            )
        ),
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
