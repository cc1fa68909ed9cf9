"""`python -m examples.train_demo`: vocabulary, encoder with its heads, causal model, learning curve, held-out figures.

Each stage runs on one core; `--stage encoder` and `--stage causal` may run beside each other; `--stage refine` and
`--stage settle` follow on the encoder's. `--stage publish`, only when asked for, puts the result where the demo finds
it. `--smoke` runs every step in miniature, on template text alone,
and gives models that know nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from examples.train_demo.corpus import DEFAULT_DATA, Corpus, read_corpus, template_corpus
from examples.train_demo.train import SMOKE, Log, Recipe, refine_encoder, settle_encoder, train_causal, train_encoder
from examples.train_demo.vocabulary import write_vocabulary
from xlm_runtime.tokenization import XLMTokenizer

STAGES = ("vocabulary", "encoder", "refine", "settle", "causal", "evaluate")
PUBLISH = "publish"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.train_demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("build/demo"), help="folder to write (%(default)s)")
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the reference text (%(default)s)")
    parser.add_argument(
        "--stage", choices=(*STAGES, PUBLISH), action="append", help="only this stage; may be given again"
    )
    parser.add_argument("--smoke", action="store_true", help="a tiny run on template text alone")
    options = parser.parse_args(arguments)
    recipe = SMOKE if options.smoke else Recipe()
    corpus = template_corpus(200, recipe.seed) if options.smoke else read_corpus(options.data)
    # one thread: at this size a second one costs more than it gives
    torch.set_num_threads(1)
    run(recipe, corpus, options.output, tuple(options.stage or STAGES))


def run(recipe: Recipe, corpus: Corpus, output: Path, stages: tuple[str, ...]) -> None:
    vocabulary = output / "vocabulary"
    if "vocabulary" in stages:
        size = write_vocabulary(corpus, vocabulary, recipe.vocab_size, recipe.template_sentences, recipe.seed)
        print(f"{size} entries in the vocabulary", flush=True)
    if "encoder" in stages:
        log = Log(output / "encoder.jsonl")
        train_encoder(recipe, corpus, XLMTokenizer.from_pretrained(vocabulary), log, output)
    if "refine" in stages:
        log = Log(output / "refine.jsonl")
        refine_encoder(recipe, corpus, XLMTokenizer.from_pretrained(vocabulary), log, output)
    if "settle" in stages:
        log = Log(output / "settle.jsonl")
        settle_encoder(recipe, corpus, XLMTokenizer.from_pretrained(vocabulary), log, output)
    if "causal" in stages:
        log = Log(output / "causal.jsonl")
        train_causal(recipe, corpus, XLMTokenizer.from_pretrained(vocabulary), log, output)
    if "evaluate" in stages:
        from examples.train_demo.curve import draw_curve
        from examples.train_demo.evaluate import evaluate

        draw_curve(output)
        evaluate(output, corpus, recipe.per_language)
    if PUBLISH in stages:
        from examples.train_demo.publish import DEFAULT_CHECKPOINTS, publish

        publish(output, DEFAULT_CHECKPOINTS)


if __name__ == "__main__":
    main()
