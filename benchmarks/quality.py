"""Quality of the demo checkpoints through every precision and engine that is there: the held-out sets, one table.

The template sets are always measured. The text sets (language identification, MLM, CLM) need the reference folder and
are left out where it is absent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from examples.train_demo.corpus import DEFAULT_DATA, read_corpus
from examples.train_demo.held_out import SCORES, Figures, HeldOut, held_out_sets
from xlm_export import export
from xlm_export.export import PRECISIONS
from xlm_runtime.errors import EngineError, MissingExtraError
from xlm_runtime.sessions import PROVIDERS
from xlm_runtime.tokenization import XLMTokenizer

Row = tuple[str, str, str, Figures | str, float]
CHECKPOINTS = Path(__file__).resolve().parents[1] / "examples" / "checkpoints"


def measure(name: str, checkpoint: Path, sets: HeldOut, precisions: list[str], providers: list[str]) -> list[Row]:
    """(checkpoint, precision, provider, figures or why there are none, seconds) of every combination."""
    task, score, _ = SCORES[name]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            bundle = export(checkpoint, Path(folder, precision), task=task, precision=precision, verify=False).folder
            for provider in providers:
                began = time.perf_counter()
                try:
                    figures: Figures | str = score(bundle, sets, provider=provider)
                except (EngineError, MissingExtraError) as error:
                    figures = str(error).partition("\n")[0][:60]
                rows.append((name, precision, provider, figures, time.perf_counter() - began))
                print(format_row(rows[-1]), flush=True)
    return rows


def format_row(row: Row) -> str:
    name, precision, provider, figures, seconds = row
    shown = figures if isinstance(figures, str) else "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
    return f"{name:<12}{precision:<6}{provider:<10}{seconds:>7.1f}  {shown}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of the models (%(default)s)")
    parser.add_argument("--only", choices=tuple(SCORES), action="append", help="only this model; may be given again")
    parser.add_argument("--precision", choices=PRECISIONS, action="append")
    parser.add_argument("--provider", choices=PROVIDERS, action="append")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the reference text (%(default)s)")
    parser.add_argument("--per-language", type=int, default=60, help="template examples of each language and task")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    corpus = read_corpus(options.data) if options.data.is_dir() else None
    sets = held_out_sets(options.per_language, corpus, XLMTokenizer.from_pretrained(options.checkpoints / "body"))
    rows: list[Row] = []
    print(f"{'model':<12}{'graph':<6}{'engine':<10}{'s':>7}  figures")
    for name, (_, _, needs_text) in SCORES.items():
        if name not in (options.only or SCORES):
            continue
        if needs_text and corpus is None:
            print(f"{name:<12}left out: '{options.data}' is not there")
            continue
        precisions, providers = options.precision or list(PRECISIONS), options.provider or ["cpu", "openvino"]
        rows += measure(name, options.checkpoints / name, sets, precisions, providers)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
