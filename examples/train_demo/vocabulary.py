"""The vocabulary: words as XLMTokenizer sees them, merged by our own trainer, written in Hugging Face's format."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from examples.train_demo.bpe import learn_vocabulary
from examples.train_demo.corpus import Corpus, template_texts
from examples.train_demo.facts import LANGUAGES, World
from xlm_runtime.tokenization.moses import MosesTables
from xlm_runtime.tokenization.sacremoses_tables import read_tables
from xlm_runtime.tokenization.words import WordPipeline

POSITIONS = 256
LANG2ID = {lang: i for i, lang in enumerate(LANGUAGES)}


def write_vocabulary(corpus: Corpus, folder: Path, size: int, template_sentences: int, seed: int) -> int:
    """Learn a vocabulary of the training text and write it; returns its entries."""
    words: Counter[str] = Counter()
    tables = MosesTables(read_tables())
    for lang in LANGUAGES:
        world = World(lang, random.Random(seed), held_out=False)
        pipeline = WordPipeline(lang, tables, lowercase=True)
        for text in [*corpus.train[lang], *template_texts(world, template_sentences)]:
            words.update(pipeline.words(text))
    vocabulary, merges = learn_vocabulary(words, size)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = "".join(f"{left} {right} {count}\n" for left, right, count in merges)
    (folder / "merges.txt").write_text(lines, encoding="utf-8")
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "XLMTokenizer", "do_lowercase_and_remove_accent": True, "model_max_length": POSITIONS,
        "lang2id": LANG2ID, "id2lang": {i: lang for lang, i in LANG2ID.items()},
    })  # fmt: skip
    return len(vocabulary)


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
