"""`xlm-runtime TASK BUNDLE [TEXT…|-]` answers texts; `xlm-runtime info BUNDLE` says what a bundle holds."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from xlm_runtime.bundle import Bundle
from xlm_runtime.cli import autotune, evaluate, question_answering, tables, text_generation
from xlm_runtime.cli.provider_options import add_provider_options, open_pipeline
from xlm_runtime.errors import InputError, XLMError
from xlm_runtime.pipelines.feature_extraction import POOLINGS
from xlm_runtime.pipelines.text_classification import FUNCTIONS
from xlm_runtime.pipelines.token_classification import AGGREGATIONS

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130


@dataclass(frozen=True)
class Command:
    """A task on the command line: its help, its own options, and how an answer is shown in a table.

    `read` turns the parsed arguments into the keyword arguments of the pipeline's call. `texts` finds further texts
    among the options.
    """

    help: str
    add: Callable[[argparse.ArgumentParser], None]
    read: Callable[[argparse.Namespace], dict[str, Any]]
    rows: Callable[[Any], list[list[str]]]
    texts: Callable[[argparse.Namespace], list[str]] = lambda args: []
    truncates: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors take one line on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # answers are in every language, whatever the locale
        sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")
    parser = build_parser()
    args, rest = parser.parse_known_args(arguments)
    # argparse of Python < 3.13 takes no texts behind an option once it has found none before it
    if rest and (not hasattr(args, "texts") or any(word.startswith("-") and word != "-" for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.texts += rest
    try:
        code: int = args.run(args)
        sys.stdout.flush()
        return code
    except XLMError as error:
        _flush_quietly()
        print(f"xlm-runtime: error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # whoever read the answers has had enough; the interpreter's own flush at exit must not fail either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a file of the bundle that may not be read
        print(f"xlm-runtime: error: {error}", file=sys.stderr)
        return EXIT_ERROR


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="xlm-runtime", description="Answer texts with a bundle from `xlm-export`.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for task, command in COMMANDS.items():
        sub = commands.add_parser(task, help=command.help, description=command.help)
        sub.set_defaults(run=_run_task, task=task)
        sub.add_argument("bundle", metavar="BUNDLE", help="folder written by `xlm-export export`")
        sub.add_argument(
            "texts",
            metavar="TEXT",
            nargs="*",
            help="texts; - (or nothing, behind a pipe) reads lines: plain text, or JSON objects with the keys of the "
            "pipeline's inputs, such as text, text_pair and lang",
        )
        command.add(sub)
        sub.add_argument("--lang", help="language of the texts; by default the model's own")
        if command.truncates:
            sub.add_argument("--truncation", action="store_true", help="cut texts that are too long for the model")
        sub.add_argument("--json", action="store_true", help="print one JSON value a line instead of a table")
        add_provider_options(sub)
        sub.add_argument(
            "--unbuffered", action="store_true", help="answer each line before the next is read, instead of in batches"
        )
    evaluate.add_parser(commands.add_parser)
    autotune.add_parser(commands.add_parser)
    info = commands.add_parser("info", help="what a bundle holds", description="What a bundle holds.")
    info.set_defaults(run=_run_info)
    info.add_argument("bundle", metavar="BUNDLE")
    info.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _run_info(args: argparse.Namespace) -> int:
    bundle = Bundle.load(args.bundle, accept_failed=True)
    if args.json:
        print(json.dumps(tables.describe(bundle), ensure_ascii=False, indent=2))
    else:
        print("\n".join(tables.info_lines(bundle, tables.terminal_width())))
    return 0


def _run_task(args: argparse.Namespace) -> int:
    command = COMMANDS[args.task]
    args.texts += command.texts(args)
    from_stdin = args.texts == ["-"] or (not args.texts and not sys.stdin.isatty())
    if not args.texts and not from_stdin:
        raise InputError("No text was given; write it behind the bundle, or - to read lines from standard input.")
    options = command.read(args)
    pipe = open_pipeline(args.task, args)
    inputs: Iterable[Any] = _read_lines(sys.stdin.buffer) if from_stdin else args.texts
    shown: deque[Any] = deque()
    count = 0
    try:
        if getattr(args, "stream", False):
            text_generation.stream(pipe, inputs, options)
            return 0
        answering = pipe.score if getattr(args, "score", False) else pipe
        for answer in _answers(answering, _noting(inputs, shown), options, args.unbuffered or sys.stdin.isatty()):
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


def _answers(answering: Any, inputs: Iterator[Any], options: dict[str, Any], one_by_one: bool) -> Iterator[Any]:
    """`answering` is a pipeline, or another of its methods that takes one input or many."""
    if one_by_one:
        for item in inputs:
            yield answering(item, **options)
    else:
        yield from answering(inputs, **options)


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


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _count_or_all(value: str) -> int | None:
    return None if value == "all" else int(value)


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {"lang": args.lang, "truncation": args.truncation}


def _add_feature_extraction(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pooling", choices=POOLINGS, default="none", help="one vector a text: of all tokens or one")
    parser.add_argument("--normalize", action="store_true", help="scale vectors to length 1")


def _add_fill_mask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="tokens for each mask (default: 5)")
    parser.add_argument("--target", action="append", metavar="WORD", help="choose among these; can be repeated")


def _add_text_classification(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--top-k", type=_count_or_all, default=1, metavar="N", help="labels, or all (default: 1)")
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
        "vectors of texts",
        _add_feature_extraction,
        lambda args: {**_common(args), "pooling": args.pooling, "normalize": args.normalize},
        tables.vector_rows,
    ),
    "fill-mask": Command(
        "words for the masks in texts, written <mask>",
        _add_fill_mask,
        lambda args: {**_common(args), "top_k": args.top_k, "targets": args.target},
        tables.mask_rows,
    ),
    "text-generation": Command(
        "text that continues prompts; with --score how probable texts are",
        text_generation.add_options,
        lambda args: {"lang": args.lang, **text_generation.read_options(args)},
        text_generation.answer_rows,
        truncates=False,
    ),
    "text-classification": Command(
        "labels of texts, or of pairs of texts given as JSON",
        _add_text_classification,
        lambda args: {**_common(args), "top_k": args.top_k, "function_to_apply": args.function_to_apply},
        tables.label_rows,
    ),
    "zero-shot-classification": Command(
        "scores of labels that the model was not trained on",
        _add_zero_shot,
        lambda args: {
            **_common(args),
            "candidate_labels": args.labels,
            "hypothesis_template": args.hypothesis_template,
            "multi_label": args.multi_label,
        },
        tables.ranking_rows,
    ),
    "multiple-choice": Command(
        "which of several choices fits a prompt",
        _add_multiple_choice,
        lambda args: {**_common(args), "choices": args.choice},
        tables.choice_rows,
    ),
    "token-classification": Command(
        "labelled tokens, such as names",
        _add_token_classification,
        lambda args: {**_common(args), "aggregation_strategy": args.aggregation_strategy},
        tables.entity_rows,
    ),
    "question-answering": Command(
        "answers out of a context, to questions given as texts or as JSON with question, context and lang",
        question_answering.add_options,
        lambda args: {"lang": args.lang, **question_answering.read_options(args)},
        question_answering.answer_rows,
        texts=lambda args: args.question or [],
        truncates=False,
    ),
}
