"""`xlm-runtime TASK BUNDLE --input PATH --output PATH`: a file of inputs into a file of answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from xlm_runtime.bundle.bundle import Bundle
from xlm_runtime.bundle.remote import local_bundle
from xlm_runtime.cli.arguments import number, whole_number
from xlm_runtime.cli.inputs import text_option
from xlm_runtime.cli.progress import file_progress
from xlm_runtime.errors import EngineError, InputError
from xlm_runtime.jobs.formats import FORMATS, find_format
from xlm_runtime.jobs.job import Answer, Job, digest, input_identity, run_job
from xlm_runtime.jobs.part import open_part
from xlm_runtime.model.batching import BatchOptions
from xlm_runtime.pipelines.base import Pipeline
from xlm_runtime.providers import AUTO, DEFAULT_PROVIDER, PROVIDERS
from xlm_runtime.ray.workers import LOCAL, Workers, cluster_cpus, connected

Opening: TypeAlias = Callable[[argparse.Namespace], tuple[Pipeline[Any, Any, Any, Any], Any]]
"""Opens the bundle: what answers, and the options that it takes."""

# options that change no answer, or may be others when a job goes on: how it ends, where it computes, what is kept
_FREE = {"run", "parser", "bundle", "texts", "input", "output", "json", "stream", "on_error", "restart", "force"}
_FREE |= {"threads", "cache_mb", "engine_cache", "device", "unbuffered", "ray", "workers", "gpus_per_worker"}
# beside --input and --output
FILE_OPTIONS = ("format", "input_format", "columns", "restart", "force", "ray", "workers", "gpus_per_worker")


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
    ray = parser.add_argument_group("files, answered by workers of Ray")
    ray.add_argument(
        "--ray",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="host:port of a cluster, or auto for the one that this machine belongs to (default: this machine alone)",
    )
    ray.add_argument(
        "--workers", type=whole_number, metavar="N", help="that each open the bundle and share the CPUs (default: 1)"
    )
    ray.add_argument(
        "--gpus-per-worker", type=number, metavar="G", help="such as 1, or 0.5 where two share one (default: 1 or 0)"
    )


def run(args: argparse.Namespace, opening: Opening, keys: Sequence[str]) -> int:
    """Answer the rows of a file.

    Args:
        opening: a function of a module, which workers find by its name.
        keys: of the pipeline's inputs.

    Returns:
        How many rows failed.
    """
    source, output = _paths(args)
    if args.ray is None:
        _check_alone(args)
    job = Job(
        source,
        find_format(source, args.input_format, "--input-format"),
        find_format(output, args.format, "--format"),
        _read_columns(args.columns),
        args.on_error,
    )
    folder = local_bundle(args.bundle)
    bundle = Bundle.load(folder)
    workers = None if args.ray is None else _read_workers(args, bundle)
    identity = {
        "input": input_identity(source),
        "bundle": digest(bundle.files),
        # a row in a failed one's place is an answer, so that this cannot change in the middle
        "options": {name: value for name, value in vars(args).items() if name not in _FREE}
        | {"on_error": "return" if args.on_error == "return" else "raise or skip"},
    }
    chunk_rows = 1 if args.unbuffered else BatchOptions.window_rows
    with (
        open_part(output, identity, restart=args.restart, force=args.force) as part,
        _answering(args, opening, workers, job, keys, part.state.rows, chunk_rows) as answer,
    ):
        if part.state.rows:
            print(f"xlm-runtime: goes on behind {part.state.rows:,} rows", file=sys.stderr)
        try:
            with file_progress(source.stat().st_size) as progress:
                state = run_job(job, part, answer, keys, chunk_rows, progress)
        except (KeyboardInterrupt, OSError, EngineError):
            if rows := part.state.rows:
                print(f"xlm-runtime: stopped behind {rows:,} rows; the same command goes on there", file=sys.stderr)
            raise
    failed = f", {state.failed:,} failed (see {output}.errors.jsonl)" if state.failed else ""
    print(f"xlm-runtime: {state.rows:,} rows{failed}, answers in {output}", file=sys.stderr)
    return state.failed


@contextmanager
def _answering(
    args: argparse.Namespace,
    opening: Opening,
    workers: Workers | None,
    job: Job,
    keys: Sequence[str],
    done: int,
    chunk_rows: int,
) -> Iterator[Answer]:
    """What answers the rows that are not done: a pipeline in this process, or workers of Ray."""
    if workers is None:
        yield open_answer(opening, args, chunk_rows)
        return
    with connected(args.ray):
        from xlm_runtime.ray.jobs import answering

        workers = workers.placed(cluster_cpus())
        given = {name: value for name, value in vars(args).items() if name not in ("run", "parser")}
        there = argparse.Namespace(**given | {"threads": workers.threads})
        for name in ("bundle", "engine_cache"):  # workers are in another folder
            if (path := given[name]) is not None and "://" not in path:
                setattr(there, name, str(Path(path).absolute()))
        open_there = partial(open_answer, opening, there, chunk_rows)
        with answering(job, keys, open_there, workers, done=done, chunk_rows=chunk_rows) as answer:
            yield answer


def open_answer(opening: Opening, args: argparse.Namespace, chunk_rows: int) -> Answer:
    """Open the bundle; what is returned answers inputs, in windows of so many rows."""
    pipe, options = opening(args)
    pipe.batching = replace(pipe.batching, window_rows=chunk_rows)

    def answer(items: Iterable[Any]) -> Any:
        return pipe.answer(items, lang=args.lang, on_error="return", options=options)

    return answer


def _check_alone(args: argparse.Namespace) -> None:
    for name in ("workers", "gpus_per_worker"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is for workers of Ray; give --ray, too.")


def _read_workers(args: argparse.Namespace, bundle: Bundle) -> Workers:
    """The workers that are asked for.

    Raises:
        InputError: options that contradict each other.
    """
    named = (args.provider,) if args.provider else bundle.providers or (DEFAULT_PROVIDER,)
    on_gpu = any(name in PROVIDERS and PROVIDERS[name].on_gpu for name in named)
    gpus = args.gpus_per_worker
    if gpus and not on_gpu and AUTO not in named:
        raise InputError(f"--gpus-per-worker is {gpus:g}, but the provider '{named[0]}' computes on the CPU.")
    count = 1 if args.workers is None else args.workers
    return Workers(count, args.threads, float(on_gpu) if gpus is None else gpus)


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
