"""What fewer words gain: `python -m benchmarks.trimming [--layers N] [--words-only] [--json FILE]`.

Words: the 15-language vocabulary trimmed to each language of XQuAD's texts, with and without `--keep-scripts`, and what
becomes of Tatoeba's sentences, which are other texts. Speed: a model of the size of xlm-clm-ende-1024 (6 layers × 1024,
64,699 words) and the same trimmed to XQuAD's German texts, seeded weights, both by the recipe int8-dynamic: a step of
generation (batch 1), and the scores of all words at each of 128 tokens (fill-mask with `full_logits`). Both take turns;
milliseconds, the best of all rounds and in brackets the median. Needs the reference data, which have the vocabularies.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoints import SHARED, write_checkpoint
from benchmarks.generation import NAME, Steps, runtime_steps
from xlm_export import export, quantize, trim
from xlm_export.trimming.check import token_changes
from xlm_export.trimming.texts import Corpus, TextFile, read_texts
from xlm_export.trimming.words import select_words, with_words
from xlm_runtime.bundle import Bundle
from xlm_runtime.sessions import GraphSource, open_session
from xlm_runtime.tokenization import XLMTokenizer

RECIPE = "int8-dynamic"
XNLI15 = "xlm-mlm-tlm-xnli15-1024"
# XQuAD's languages → Tatoeba's names
LANGUAGES = {"de": "deu", "en": "eng", "es": "spa", "ru": "rus", "ar": "ara"}


def xquad(data: Path, lang: str) -> Path:
    return data / "original-pipeline" / f"{lang}.raw"


def count_words(data: Path) -> list[dict[str, Any]]:
    """For each language, how many words stay, and how many tokens of Tatoeba's sentences change."""
    rows = []
    for lang, other in LANGUAGES.items():
        tokenizer = XLMTokenizer.from_pretrained(data / XNLI15, whitespace="space")
        corpus = Corpus()
        for text in read_texts(TextFile(xquad(data, lang), lang), name="text"):
            corpus.add(text, tokenizer)
        sentences = data / "tatoeba" / f"tatoeba.{'deu' if lang == 'en' else other}-eng.{other}"
        texts = list(read_texts(TextFile(sentences, lang), name="text"))
        for keep_scripts in (False, True):
            counts = corpus.counts + corpus.held_out_counts
            selection = select_words(tokenizer, counts, vocab_size=len(tokenizer), keep_scripts=keep_scripts)
            changes = token_changes(tokenizer, with_words(tokenizer, selection), selection, texts)
            rows.append(
                {
                    "lang": lang,
                    "keep_scripts": keep_scripts,
                    "tokens": counts.total(),
                    "needed": len(counts),
                    "words": len(selection.ids),
                    "fewer": 1 - len(selection.ids) / len(tokenizer),
                    "changed": changes.changed / changes.tokens,
                    "longer": changes.tokens_now / changes.tokens - 1,
                    "unknown": changes.unknown_now - changes.unknown,
                }
            )
    return rows


def logit_steps(folder: Path, threads: int) -> Steps:
    """All words' scores at each token of a batch."""
    bundle = Bundle.load(folder / "bundle")
    session = open_session(GraphSource.of(bundle, bundle.graph(RECIPE)), threads=threads)

    def steps(ids: np.ndarray, count: int) -> Iterator[float]:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "langs": np.full_like(ids, -1)}
        for _ in range(count):
            began = time.perf_counter()
            session.run({name: feed[name] for name in session.input_names})
            yield time.perf_counter() - began

    return steps


def prepare(folder: Path, data: Path, layers: int | None, causal: bool) -> tuple[Path, Path]:
    """Folders with the whole model's bundle and the trimmed one's."""
    whole, fewer = folder / "whole", folder / "trimmed"
    write_checkpoint(whole / "checkpoint", NAME, n_layers=layers, causal=causal)
    texts, tokenizer = [f"de={xquad(data, 'de')}"], data / NAME
    trim(whole / "checkpoint", fewer / "checkpoint", texts, text_format="text", tokenizer=tokenizer)
    for each, words in ((whole, tokenizer), (fewer, None)):
        export(each / "checkpoint", each / "bundle", tokenizer=words, full_logits=not causal, verify=False)
        quantize(each / "bundle", RECIPE)
    return whole, fewer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED, help="the reference data")
    parser.add_argument("--layers", type=int, help="cut the model to so many layers")
    parser.add_argument("--words-only", action="store_true", help="count words, and time nothing")
    parser.add_argument("--tokens", type=int, default=16, help="steps of each round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not (options.data / XNLI15).is_dir():
        raise SystemExit(f"No reference data at '{options.data}'; give their folder with --data.")
    words = count_words(options.data)
    print(f"{XNLI15}, words of XQuAD's texts; tokens of Tatoeba's sentences\n")
    print("| language | scripts | tokens | different | words kept | fewer | changed | longer | more <unk> |")
    print("|---|---|---|---|---|---|---|---|---|")
    for row in words:
        scripts = "all words" if row["keep_scripts"] else ""
        print(
            f"| {row['lang']} | {scripts} | {row['tokens']:,} | {row['needed']:,} | {row['words']:,} "
            f"| {row['fewer']:.0%} | {row['changed']:.1%} | {row['longer']:+.1%} | {row['unknown']} |"
        )
    times: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, list[int]] = {}
    for task, causal in () if options.words_only else (("generation", True), ("fill-mask, all words", False)):
        with tempfile.TemporaryDirectory() as name:
            folders = prepare(Path(name), options.data, options.layers, causal)
            sizes[task] = [sum(file.stat().st_size for file in (each / "bundle").iterdir()) for each in folders]
            contenders = {
                each.name: runtime_steps(each, RECIPE, options.threads)
                if causal
                else logit_steps(each, options.threads)
                for each in folders
            }
            ids = np.random.default_rng(0).integers(14, 5000, (1, 32 if causal else 128))
            times[task] = {each: [] for each in contenders}
            for _ in range(options.rounds):
                for each, steps in contenders.items():
                    times[task][each].extend(steps(ids, options.tokens))
    if times:
        print(
            f"\n{NAME}, {RECIPE}, {options.threads} threads\n\n| | whole | trimmed | times as fast |\n|---|---|---|---|"
        )
    for task, by_contender in times.items():
        best = [min(values) for values in by_contender.values()]
        cells = [
            f"{min(values) * 1000:.1f} ({statistics.median(values) * 1000:.1f})" for values in by_contender.values()
        ]
        print(f"| {task} | {' | '.join(cells)} | {best[0] / best[1]:.2f} |")
    print(f"load average {os.getloadavg()[0]:.1f}")
    if options.json:
        rows = {"words": words, "seconds": times, "bundle_bytes": sizes}
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
