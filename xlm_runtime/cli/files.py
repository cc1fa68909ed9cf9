"""`xlm-runtime TASK BUNDLE --input PATH --output PATH`: a file of inputs into a file of answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from xlm_runtime.bundle.bundle import Bundle
from xlm_runtime.bundle.remote import local_bundle
from xlm_runtime.cli.inputs import text_option
from xlm_runtime.cli.progress import file_progress
from xlm_runtime.cli.provider_options import open_pipeline
from xlm_runtime.errors import EngineError, InputError
from xlm_runtime.jobs.formats import FORMATS, find_format
from xlm_runtime.jobs.job import Job, digest, input_identity, run_job
from xlm_runtime.jobs.part import open_part
from xlm_runtime.model.model import BundleModel
from xlm_runtime.pipelines.base import Pipeline

# options that change no answer, or may be others when a job goes on: how it ends, where it computes, what is kept
_FREE = {"run", "parser", "bundle", "texts", "input", "output", "json", "stream", "on_error", "restart", "force"}
_FREE |= {"threads", "cache_mb", "engine_cache", "device", "unbuffered"}
# beside --input and --output
FILE_OPTIONS = ("format", "input_format", "columns", "restart", "force")


def add_file_options(parser: argparse.ArgumentParser) -> None:
    files = parser.add_argument_group("files, for many texts; what was cut goes on when the same command is run again")
    files.add_argument("--input", metavar="PATH", help="a file with an input a row, in place of texts")
    files.add_argument(
        "--output", metavar="PATH", help="where the answers go, in the inputs' order; failed rows to PATH.errors.jsonl"
    )
    files.add_argument("--format", choices=FORMATS, help="of the output, where its name does not say it")
    files.add_argument("--input-format", choices=FORMATS, help="of the input, where its name does not say it")
    files.add_argument(
        "--columns",
        type=text_option,
        metavar="A,B=C",
        help="the columns (keys) to read; B=C reads C as B. Those with the names of the pipeline's inputs are these, "
        "the others come back with the answers (default: all)",
    )
    files.add_argument("--restart", action="store_true", help="throw away what an earlier run of the job has done")
    files.add_argument("--force", action="store_true", help="replace an output that is there, when the new one is done")


def run(
    args: argparse.Namespace,
    options_of: Callable[[BundleModel], Any],
    answering_of: Callable[[Any], Pipeline[Any, Any, Any, Any]],
) -> int:
    """Answer the rows of a file.

    Args:
        options_of: the pipeline's options for an opened model.
        answering_of: the pipeline that answers, of an opened one.

    Returns:
        How many rows failed.
    """
    source, output = _paths(args)
    job = Job(
        source,
        find_format(source, args.input_format, "--input-format"),
        find_format(output, args.format, "--format"),
        _read_columns(args.columns),
        args.on_error,
    )
    identity = {
        "input": input_identity(source),
        "bundle": digest(Bundle.load(local_bundle(args.bundle)).files),
        # a row in a failed one's place is an answer, so that this cannot change in the middle
        "options": {name: value for name, value in vars(args).items() if name not in _FREE}
        | {"on_error": "return" if args.on_error == "return" else "raise or skip"},
    }
    with open_part(output, identity, restart=args.restart, force=args.force) as part:
        pipe = open_pipeline(args.task, args)
        options, answering = options_of(pipe.model), answering_of(pipe)
        if args.unbuffered:
            answering.batching = replace(answering.batching, window_rows=1)

        def answer(items: Iterable[Any]) -> Any:
            return answering.answer(items, lang=args.lang, on_error="return", options=options)

        if part.state.rows:
            print(f"xlm-runtime: goes on behind {part.state.rows:,} rows", file=sys.stderr)
        try:
            with file_progress(source.stat().st_size) as progress:
                state = run_job(job, part, answer, answering.input_keys, answering.batching.window_rows, progress)
        except (KeyboardInterrupt, OSError, EngineError):
            if rows := part.state.rows:
                print(f"xlm-runtime: stopped behind {rows:,} rows; the same command goes on there", file=sys.stderr)
            raise
    failed = f", {state.failed:,} failed (see {output}.errors.jsonl)" if state.failed else ""
    print(f"xlm-runtime: {state.rows:,} rows{failed}, answers in {output}", file=sys.stderr)
    return state.failed


def _paths(args: argparse.Namespace) -> tuple[Path, Path]:
    if args.input is None or args.output is None:
        raise InputError("--input and --output go together; give both.")
    if args.texts:
        raise InputError("Texts were given beside --input, which has the texts; leave one of them out.")
    for name in ("json", "stream"):
        if getattr(args, name, False):
            raise InputError(f"--{name} prints answers, and --output writes them to a file; leave out one of them.")
    source, output = Path(args.input), Path(args.output)
    if output.exists() and source.exists() and output.samefile(source):
        raise InputError(f"'{output}' is the input itself; give another --output.")
    return source, output


def _read_columns(text: str | None) -> dict[str, str] | None:
    """ "A,B=C" → {"A": "A", "B": "C"}"""
    if text is None:
        return None
    columns: dict[str, str] = {}
    for part in text.split(","):
        name, _, column = part.strip().partition("=")
        if not name or name in columns:
            raise InputError(f"--columns is '{text}'; expected names such as id,text=review, each once.")
        columns[name] = column or name
    return columns
