"""Speed of the tokenizer beside Hugging Face's, one thread, on XQuAD's paragraphs and questions in six languages.

    python -m benchmarks.tokenizer [--data ../shared/data] [--json results.json] [--original]

Both take turns in one process, every 50 texts. *First pass*: a fresh tokenizer meets all 1,430 texts of a language
for the first time.
*Warm*: the same texts again, so that every word was seen. Rates are tokens a second of processor time,
medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xlm_runtime.tokenization import XLMTokenizer

LANGUAGES = ("en", "de", "es", "ru", "zh", "ar")
ORIGINAL = ("en", "de", "es", "ru", "ar")
MODEL = "xlm-mlm-tlm-xnli15-1024"
Encode = Callable[[str], int]


def read_texts(data: Path, lang: str) -> list[str]:
    articles = json.loads((data / "xquad" / f"xquad.{lang}.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [text for p in paragraphs for text in (p["context"], *(question["question"] for question in p["qas"]))]


def rates(encoders: dict[str, Encode], texts: list[str]) -> dict[str, tuple[float, int]]:
    """Tokens a second of processor time, and tokens, of each; they take turns every 50 texts."""
    seconds = dict.fromkeys(encoders, 0.0)
    tokens = dict.fromkeys(encoders, 0)
    for start in range(0, len(texts), 50):
        for name, encode in encoders.items():
            begun = time.process_time()
            tokens[name] += sum([encode(text) for text in texts[start : start + 50]])
            seconds[name] += time.process_time() - begun
    return {name: (tokens[name] / seconds[name], tokens[name]) for name in encoders}


def theirs(folder: Path, lang: str | None) -> Encode:
    import transformers

    tokenizer: Any = transformers.XLMTokenizer.from_pretrained(folder)
    if lang is None:
        return lambda text: len(tokenizer(text)["input_ids"])
    return lambda text: len(tokenizer.convert_tokens_to_ids(tokenizer._tokenize(text, lang=lang)))


def ours(folder: Path, lang: str | None) -> Encode:
    tokenizer = XLMTokenizer.from_pretrained(folder)
    if lang is None:
        return lambda text: len(tokenizer(text)["input_ids"])
    return lambda text: len(tokenizer(text, lang=lang, add_special_tokens=False)["input_ids"])


def measure(folder: Path, texts: list[str], lang: str | None, rounds: int) -> dict[str, float]:
    """Median rates of both, first pass and warm; the two take turns round by round."""
    found: dict[str, list[float]] = {}
    tokens = set()
    for _ in range(rounds):
        encoders = {"transformers": theirs(folder, lang), "ours": ours(folder, lang)}
        for encode in encoders.values():
            encode("warm")  # compiles patterns and loads segmenters
        for kind in ("first", "warm", "warm"):
            for name, (value, count) in rates(encoders, texts).items():
                found.setdefault(f"{name}_{kind}", []).append(value)
                tokens.add(count)
    if len(tokens) != 1:
        raise SystemExit(f"The two tokenizers disagree about the number of tokens: {sorted(tokens)}")
    return {"tokens": tokens.pop(), **{name: statistics.median(values) for name, values in found.items()}}


def load_times(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds to load the folder, medians."""
    import transformers

    loaders: dict[str, Callable[[Path], object]] = {
        "transformers": transformers.XLMTokenizer.from_pretrained,
        "ours": XLMTokenizer.from_pretrained,
    }
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(rounds):
        for name, load in loaders.items():
            start = time.process_time()
            load(folder)
            found[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def cache_memory(folder: Path, data: Path) -> dict[str, float]:
    """MiB that the caches of one language hold after XQuAD's six, and full of made-up words, spans included."""
    tokenizer = XLMTokenizer.from_pretrained(folder)
    tokenizer("warm")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for lang in LANGUAGES:
        for text in read_texts(data, lang):
            tokenizer(text)
    after = tracemalloc.get_traced_memory()[0]
    for number in range(100_000):
        text = f"x{number}mnopq. x{number}rstuv, yz{number}"
        tokenizer(text, return_offsets_mapping=number % 8 == 0)
    full = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {"xquad": (after - before) / 2**20, "full": (full - before) / 2**20}


def original_pipeline(folder: Path, data: Path) -> dict[str, tuple[int, int]]:
    """Lines whose tokens in `lang` mode equal those of the original Perl and C++ tools, of all lines."""
    tokenizer = XLMTokenizer.from_pretrained(folder)
    result = {}
    for lang in ORIGINAL:
        raw, expected = (
            (data / "original-pipeline" / f"{lang}.{kind}").read_text(encoding="utf-8").split("\n")
            for kind in ("raw", "xnli15.bpe")
        )
        pairs = [(a, b) for a, b in zip(raw, expected, strict=True) if a]
        equal = sum(tokenizer.tokenize(a, lang=lang) == _tokens(b) for a, b in pairs)
        result[lang] = equal, len(pairs)
    return result


def _tokens(line: str) -> list[str]:
    """fastBPE's `to@@ ken` in the vocabulary's spelling."""
    return [token[:-2] if token.endswith("@@") else f"{token}</w>" for token in line.split()]


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [
        "| XQuAD | tokens | transformers, first pass | here, first pass | | transformers, warm | here, warm | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for lang, row in rows.items():
        cells = [f"{int(row['tokens']):,}"]
        for kind in ("first", "warm"):
            a, b = row[f"transformers_{kind}"], row[f"ours_{kind}"]
            cells += [f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.1f}×"]
        lines.append(f"| {lang} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=default, help="the reference data, beside the repository")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--original", action="store_true", help="also compare with the original Perl pipeline")
    options = parser.parse_args()
    folder = options.data / MODEL
    if not folder.is_dir():
        sys.exit(f"The reference data is not at '{options.data}'. Give its place with --data.")
    results: dict[str, Any] = {}
    for title, in_lang in (("tokenizer(text)", False), ("tokenizer(text, lang=…)", True)):
        rows = {
            lang: measure(folder, read_texts(options.data, lang), lang if in_lang else None, options.rounds)
            for lang in LANGUAGES
        }
        results[title] = rows
        print(f"`{title}`, tokens a second\n\n{table(rows)}\n", flush=True)
    results["load_ms"] = load_times(folder, 7)
    print("Loading the vocabulary of 95,000: " + ", ".join(f"{k} {v:.0f} ms" for k, v in results["load_ms"].items()))
    results["cache_mib"] = cache_memory(folder, options.data)
    print("Caches: {xquad:.1f} MiB after XQuAD in six languages, {full:.1f} MiB full".format(**results["cache_mib"]))
    if options.original:
        results["original_pipeline"] = original_pipeline(folder, options.data)
        for lang, (equal, lines) in results["original_pipeline"].items():
            print(f"Original pipeline, {lang}: {equal} of {lines} lines equal ({100 * equal / lines:.2f} %)")
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
