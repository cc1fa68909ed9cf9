"""`xlm-runtime evaluate`: a whole SQuAD file through a question-answering bundle."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from xlm_runtime.cli.arguments import whole_number
from xlm_runtime.cli.progress import progress_bar
from xlm_runtime.cli.provider_options import add_provider_options, open_pipeline
from xlm_runtime.cli.question_answering import add_window_options, read_window_options
from xlm_runtime.errors import InputError
from xlm_runtime.question_answering.evaluate import METRICS, Evaluation, evaluate
from xlm_runtime.question_answering.options import resolve_options
from xlm_runtime.question_answering.squad_files import SquadFile, read_squad

_HELP = "exact match and F1 of a question-answering bundle on a file of SQuAD 1.1, SQuAD 2.0, XQuAD or MLQA"


def add_parsers(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command with `add_parser` of the commands."""
    parser = add("evaluate", description=_HELP)
    parser.set_defaults(run=run, parser=parser)
    parser.add_argument("bundle", metavar="BUNDLE", help="folder written by `xlm-export export`")
    parser.add_argument("data", metavar="DATA.json", help="a file of SQuAD 1.1, SQuAD 2.0, XQuAD or MLQA, as published")
    parser.add_argument(
        "--output-dir", metavar="D", help="where the predictions go (default: DATA-predictions, in this folder)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    parser.add_argument("--lang", help="language of the contexts (default: by the file's name, or the model's own)")
    parser.add_argument("--question-lang", help="language of the questions, where it is another one")
    parser.add_argument("--metric", choices=METRICS, help="normalisation of answers (default: mlqa for MLQA's files)")
    parser.add_argument("--limit", type=whole_number, metavar="N", help="the first N questions alone")
    add_window_options(parser)
    add_provider_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, write the predictions and print the figures."""
    data = read_squad(args.data)
    if args.limit is not None:
        if args.limit < 1:
            raise InputError(f"--limit is {args.limit}; expected a positive number.")
        data = data.first(args.limit)
    stem = Path(args.data).stem
    folder = Path(args.output_dir or f"{stem}-predictions")
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is found before hours of answering
    qa = open_pipeline("question-answering", args)
    positions, longest = qa.model.config.max_position_embeddings, qa.model.longest_row()
    options = resolve_options(positions, longest_row=longest, **read_window_options(args))
    began = time.perf_counter()
    with progress_bar(len(data.examples)) as progress:
        result = evaluate(
            qa,
            data,
            options,
            lang=args.lang,
            question_lang=args.question_lang,
            metric=args.metric,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    paths = result.write(folder)
    if args.json:
        print(json.dumps(result.figures))
    else:
        print(f"{Path(args.data).name}: {_described(data, args.lang)}, {len(data.examples) / seconds:.1f} a second")
        print("\n".join(figure_lines(result)))
        print(f"{', '.join(path.name for path in paths)} are in {folder}")
    return 0


def figure_lines(result: Evaluation) -> list[str]:
    """The figures as a table: one line for all questions, those with an answer and those without one."""
    figures = result.figures
    exact = "exact_match" if "exact_match" in figures else "exact"
    lines = [f"  {'':12}{'questions':>10}{'exact match':>13}{'F1':>9}", _row("all", figures, exact, "f1", "total")]
    for prefix, name in (("HasAns", "with answer"), ("NoAns", "without")):
        if f"{prefix}_total" in figures:
            lines.append(_row(name, figures, f"{prefix}_exact", f"{prefix}_f1", f"{prefix}_total"))
    if "best_exact" in figures:
        lines += [
            _row("best", figures, "best_exact", "best_f1", "total"),
            f"  best thresholds: {figures['best_exact_thresh']:.4f} for exact match, "
            f"{figures['best_f1_thresh']:.4f} for F1 (--null-score-diff-threshold)",
        ]
    return lines


def _row(name: str, figures: Mapping[str, float], exact: str, f1: str, total: str) -> str:
    return f"  {name:12}{int(figures[total]):>10}{figures[exact]:>13.2f}{figures[f1]:>9.2f}"


def _described(data: SquadFile, lang: str | None) -> str:
    language = (
        f"language {lang}" if lang else f"language {data.lang}, by its name" if data.lang else "no language given"
    )
    version = f"version {data.version}, " if data.version else ""
    return f"{len(data.examples)} questions, {version}{language}"
