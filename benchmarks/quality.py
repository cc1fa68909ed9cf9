"""Quality of the demo checkpoints through every graph and engine that is there: the held-out sets, one table.

The yardstick of every recipe of `xlm-export quantize`. The template sets are always measured. The text sets (language
identification, MLM, CLM) need the reference folder and are left out where it is absent; so is the calibration on
training texts, for which the sentences of verification then stand in.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from examples.train_demo.corpus import DEFAULT_DATA, Corpus, read_corpus
from examples.train_demo.facts import LANGUAGES
from examples.train_demo.held_out import SCORES, Figures, HeldOut, held_out_sets
from xlm_export import Limits, export, quantize
from xlm_export.quantization.recipes import RECIPES
from xlm_runtime.errors import EngineError, MissingExtraError, XLMError
from xlm_runtime.providers import PROVIDERS
from xlm_runtime.tokenization import XLMTokenizer

Row = tuple[str, str, str, Figures | str, float]
CHECKPOINTS = Path(__file__).resolve().parents[1] / "examples" / "checkpoints"


@dataclass(frozen=True)
class Made:
    """How a graph is made: precision and layout of the export, the recipe that follows it, and its percentile."""

    precision: str = "fp32"
    layout: str = "padded"
    recipe: str | None = None
    percentile: float | None = None


GRAPHS = {
    "fp32": Made(),
    "packed": Made(layout="packed"),
    "fp16": Made("fp16"),
    "bf16": Made("bf16"),
    **{name: Made(recipe=name) for name in RECIPES if name != "bf16"},
    "bf16-weights": Made(recipe="bf16"),
    "packed-int8": Made(layout="packed", recipe="int8-dynamic"),
    "packed-int8-static": Made(layout="packed", recipe="int8-static"),
}


def measure(
    name: str, checkpoint: Path, sets: HeldOut, graphs: dict[str, Made], providers: list[str], calibration: Path | None
) -> list[Row]:
    """(checkpoint, graph, provider, figures or why there are none, seconds) of every combination.

    A quantised graph's figures end with its divergence from fp32 on the calibration texts, as `quantize` reports it.
    """
    task, score, _ = SCORES[name]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for graph, made in graphs.items():
            bundle, precision = Path(folder, graph), made.precision
            more: Figures = {}
            try:
                export(checkpoint, bundle, task=task, precision=precision, layout=made.layout, verify=False)
                if made.recipe is not None:
                    precision = made.recipe
                    anything = Limits(max_divergence=math.inf)
                    report = quantize(
                        bundle, made.recipe, calibration=calibration, limits=anything, percentile=made.percentile
                    ).report
                    more = {"divergence": report["divergence"]}
            except XLMError as error:
                rows.append((name, graph, "", _first_line(error), 0.0))
                print(format_row(rows[-1]), flush=True)
                continue
            for provider in providers:
                began = time.perf_counter()
                try:
                    figures: Figures | str = score(bundle, sets, provider=provider, precision=precision) | more
                except (XLMError, EngineError, MissingExtraError) as error:
                    figures = _first_line(error)
                rows.append((name, graph, provider, figures, time.perf_counter() - began))
                print(format_row(rows[-1]), flush=True)
    return rows


def write_calibration(corpus: Corpus, path: Path, per_language: int = 16, seed: int = 8) -> None:
    """Training texts, `lang<TAB>text`."""
    rng = random.Random(seed)
    lines = [
        f"{lang}\t{' '.join(text.split())}\n"
        for lang in LANGUAGES
        for text in rng.sample(corpus.train[lang], per_language)
    ]
    path.write_text("".join(lines), encoding="utf-8")


def format_row(row: Row) -> str:
    name, graph, provider, figures, seconds = row
    shown = figures if isinstance(figures, str) else "  ".join(f"{key} {value:.5f}" for key, value in figures.items())
    return f"{name:<12}{graph:<15}{provider:<10}{seconds:>7.1f}  {shown}"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:80]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of the models (%(default)s)")
    parser.add_argument("--only", choices=tuple(SCORES), action="append", help="only this model; may be given again")
    parser.add_argument("--graph", choices=tuple(GRAPHS), action="append", help="only this graph; may be given again")
    parser.add_argument("--percentile", type=float, action="append", default=[], metavar="P",
                        help="int8-static with ranges that hold P percent, too; may be given again")  # fmt: skip
    parser.add_argument("--provider", choices=PROVIDERS, action="append")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the reference text (%(default)s)")
    parser.add_argument("--per-language", type=int, default=60, help="template examples of each language and task")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    options = parser.parse_args()
    corpus = read_corpus(options.data) if options.data.is_dir() else None
    sets = held_out_sets(options.per_language, corpus, XLMTokenizer.from_pretrained(options.checkpoints / "body"))
    graphs = {name: GRAPHS[name] for name in options.graph or GRAPHS}
    graphs |= {f"static-{value:g}": Made(recipe="int8-static", percentile=value) for value in options.percentile}
    providers = options.provider or ["cpu", "openvino"]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        calibration = None
        if corpus is not None:
            calibration = Path(folder, "calibration.txt")
            write_calibration(corpus, calibration)
        print(f"{'model':<12}{'graph':<15}{'engine':<10}{'s':>7}  figures")
        for name, (_, _, needs_text) in SCORES.items():
            if name not in (options.only or SCORES):
                continue
            if needs_text and corpus is None:
                print(f"{name:<12}left out: '{options.data}' is not there")
                continue
            rows += measure(name, options.checkpoints / name, sets, graphs, providers, calibration)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
