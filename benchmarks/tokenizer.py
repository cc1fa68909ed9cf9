"""Speed of the tokenizer beside Hugging Face's, one thread, on XQuAD's paragraphs and questions in six languages.

    python -m benchmarks.tokenizer [--data ../shared/data] [--json results.json] [--original]
    python -m benchmarks.tokenizer --load

Both take turns in one process on one CPU, every 50 texts, and must give the same ids. *First pass*: a fresh tokenizer
meets all 1,430 texts of a language for the first time. *Warm*: the same texts again, so that every word was seen.
*Mixed* is one tokenizer for all six languages, 50 texts of each in turn. Rates are tokens a second of processor time,
medians of the rounds. The folder is one that `save_pretrained` wrote, as a bundle holds it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

from xlm_runtime.tokenization import XLMTokenizer
from xlm_runtime.tokenization.word_files import TOKEN_INDEX

LANGUAGES = ("en", "de", "es", "ru", "zh", "ar")
ORIGINAL = ("en", "de", "es", "ru", "ar")
MODEL = "xlm-mlm-tlm-xnli15-1024"
TURN = 50
MIXED = "six, mixed"
# a text, and its language or None
Item = tuple[str, str | None]
Encode = Callable[[Item], list[int]]

_PEAK = """
import sys
from pathlib import Path
from benchmarks import tokenizer
encode = getattr(tokenizer, sys.argv[1])(Path(sys.argv[2]))
if sys.argv[3] == "texts":
    for item in tokenizer.mixed(Path(sys.argv[4]), in_lang=False):
        encode(item)
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak)
"""

_OWN = """
import sys
from xlm_runtime.tokenization import XLMTokenizer
def own():
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith("Private")) / 1024
before = own()
tokenizer = XLMTokenizer.from_pretrained(sys.argv[1])
loaded = own() - before
tokenizer("The old lighthouse stands at the edge of the small town.")
print(loaded, own() - before)
"""


def read_texts(data: Path, lang: str) -> list[str]:
    articles = json.loads((data / "xquad" / f"xquad.{lang}.json").read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    return [text for p in paragraphs for text in (p["context"], *(question["question"] for question in p["qas"]))]


def mixed(data: Path, in_lang: bool) -> list[Item]:
    """All texts, 50 of each language in turn."""
    columns = [[(text, lang if in_lang else None) for text in read_texts(data, lang)] for lang in LANGUAGES]
    starts = range(0, max(map(len, columns)), TURN)
    return list(chain.from_iterable(column[start : start + TURN] for start in starts for column in columns))


def seconds(encoders: dict[str, Encode], items: list[Item]) -> tuple[dict[str, float], int]:
    """Seconds of processor time of each, and tokens; they take turns."""
    spent = dict.fromkeys(encoders, 0.0)
    tokens = 0
    for start in range(0, len(items), TURN):
        found = {}
        for name, encode in encoders.items():
            begun = time.process_time()
            found[name] = [encode(item) for item in items[start : start + TURN]]
            spent[name] += time.process_time() - begun
        first, *others = found.values()
        if any(other != first for other in others):
            raise SystemExit(f"The tokenizers disagree about the texts from number {start}: {items[start]}")
        tokens += sum(map(len, first))
    return spent, tokens


def theirs(folder: Path) -> Encode:
    import transformers

    tokenizer: Any = transformers.XLMTokenizer.from_pretrained(folder)

    def encode(item: Item) -> list[int]:
        text, lang = item
        if lang is None:
            return tokenizer(text)["input_ids"]
        return tokenizer.convert_tokens_to_ids(tokenizer._tokenize(text, lang=lang))

    return encode


def ours(folder: Path) -> Encode:
    tokenizer = XLMTokenizer.from_pretrained(folder)

    def encode(item: Item) -> list[int]:
        text, lang = item
        if lang is None:
            return tokenizer(text)["input_ids"]
        return tokenizer(text, lang=lang, add_special_tokens=False)["input_ids"]

    return encode


def measure(folder: Path, items: list[Item], rounds: int) -> dict[str, float]:
    """Median rates of both, first pass and warm; the two take turns round by round."""
    found: dict[str, list[float]] = {}
    tokens = 0
    for _ in range(rounds):
        encoders = {"transformers": theirs(folder), "ours": ours(folder)}
        for encode in encoders.values():
            for lang in {lang for _, lang in items}:
                encode(("warm", lang))  # compiles patterns and loads segmenters
        for kind in ("first", "warm", "warm"):
            spent, tokens = seconds(encoders, items)
            for name, value in spent.items():
                found.setdefault(f"{name}_{kind}", []).append(tokens / value)
    return {"tokens": tokens, **{name: statistics.median(values) for name, values in found.items()}}


def load_times(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time to load the folder, medians; ours with `token_index.bin` and without."""
    import transformers

    with tempfile.TemporaryDirectory() as made:
        plain = without_index(folder, Path(made))
        loaders: dict[str, Callable[[], object]] = {
            "transformers": lambda: transformers.XLMTokenizer.from_pretrained(folder),
            "ours": lambda: XLMTokenizer.from_pretrained(folder),
            "ours_without_index": lambda: XLMTokenizer.from_pretrained(plain),
        }
        found: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(rounds):
            for name, load in loaders.items():
                start = time.process_time()
                load()
                found[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def without_index(folder: Path, target: Path) -> Path:
    """A copy of a tokenizer's folder as older versions wrote it."""
    return Path(shutil.copytree(folder, target / "plain", ignore=shutil.ignore_patterns(TOKEN_INDEX)))


def own_memory(folder: Path) -> dict[str, float]:
    """MiB that a tokenizer takes of a process's own memory (unique set size), loaded and after its first text; with
    `token_index.bin` and without. On Linux."""
    found = {}
    with tempfile.TemporaryDirectory() as made:
        for name, path in (("ours", folder), ("ours_without_index", without_index(folder, Path(made)))):
            command = [sys.executable, "-c", _OWN, str(path)]
            loaded, answered = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found |= {f"{name}_loaded": float(loaded), f"{name}_text": float(answered)}
    return found


def cache_memory(folder: Path, data: Path) -> dict[str, float]:
    """MiB that the caches hold after XQuAD's six, entries a MiB, and MiB full of made-up words, spans included."""
    tokenizer = XLMTokenizer.from_pretrained(folder)
    tokenizer("warm")
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for text, _ in mixed(data, in_lang=False):
        tokenizer(text)
    after = tracemalloc.get_traced_memory()[0]
    entries = tokenizer.encoder.cache_entries()
    for number in range(150_000):
        text = f"x{number}mnopq. x{number}rstuv, yz{number}"
        tokenizer(text, return_offsets_mapping=number % 8 == 0)
    full = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return {
        "xquad": (after - before) / 2**20,
        "bytes_per_entry": (after - before) / entries,
        "full": (full - before) / 2**20,
        "bound": tokenizer.cache_mb,
    }


def peak_memory(folder: Path, data: Path) -> dict[str, float]:
    """MiB of resident memory of a process with either tokenizer, loaded, and after XQuAD's six."""
    found = {}
    for name in ("theirs", "ours"):
        for what in ("loaded", "texts"):
            command = [sys.executable, "-c", _PEAK, name, str(folder), what, str(data)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[f"{name}_{what}"] = int(output) / 1024
    return found


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
    parser.add_argument("--mixed", action="store_true", help="the six languages mixed alone")
    parser.add_argument("--load", action="store_true", help="what loading takes alone")
    parser.add_argument("--original", action="store_true", help="also compare with the original Perl pipeline")
    options = parser.parse_args()
    source = options.data / MODEL
    if not source.is_dir():
        sys.exit(f"The reference data is not at '{options.data}'. Give its place with --data.")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    tokenizer = XLMTokenizer.from_pretrained(source)
    tokenizer("warm")  # reads the Moses tables
    with tempfile.TemporaryDirectory() as saved:
        folder = Path(saved)
        tokenizer.save_pretrained(folder)
        report(folder, options)


def report(folder: Path, options: argparse.Namespace) -> None:
    """Measure and print everything."""
    results: dict[str, Any] = {}
    if not options.load:
        report_rates(folder, options, results)
    results["load_ms"] = load_times(folder, 7)
    print("Loading the vocabulary of 95,000: " + ", ".join(f"{k} {v:.0f} ms" for k, v in results["load_ms"].items()))
    results["own_mib"] = own_memory(folder)
    print("Memory of its own, MiB: " + ", ".join(f"{k} {v:.1f}" for k, v in results["own_mib"].items()))
    if not options.load:
        report_memory(folder, options, results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def report_rates(folder: Path, options: argparse.Namespace, results: dict[str, Any]) -> None:
    for title, in_lang in (("tokenizer(text)", False), ("tokenizer(text, lang=…)", True)):
        sets = {MIXED: mixed(options.data, in_lang)}
        if not options.mixed:
            for lang in LANGUAGES:
                sets[lang] = [(text, lang if in_lang else None) for text in read_texts(options.data, lang)]
        rows = {name: measure(folder, items, options.rounds) for name, items in sets.items()}
        results[title] = rows
        print(f"`{title}`, tokens a second\n\n{table(rows)}\n", flush=True)


def report_memory(folder: Path, options: argparse.Namespace, results: dict[str, Any]) -> None:
    results["peak_mib"] = peak_memory(folder, options.data)
    print(
        "Peak memory, loaded and after XQuAD in six languages: transformers {theirs_loaded:.0f} and {theirs_texts:.0f} "
        "MiB, here {ours_loaded:.0f} and {ours_texts:.0f} MiB".format(**results["peak_mib"])
    )
    results["cache_mib"] = cache_memory(folder, options.data)
    print(
        "Caches: {xquad:.1f} MiB after XQuAD in six languages, {bytes_per_entry:.0f} bytes an entry; {full:.1f} MiB "
        "full, of {bound} allowed".format(**results["cache_mib"])
    )
    if options.original:
        results["original_pipeline"] = original_pipeline(folder, options.data)
        for lang, (equal, lines) in results["original_pipeline"].items():
            print(f"Original pipeline, {lang}: {equal} of {lines} lines equal ({100 * equal / lines:.2f} %)")


if __name__ == "__main__":
    main()
