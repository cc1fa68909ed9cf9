"""The figures of the model card: the saved checkpoints, exported and answered by the runtime, on the held-out sets."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from examples.train_demo.corpus import Corpus
from examples.train_demo.held_out import SCORES, Unigram, held_out_sets
from xlm_export import export
from xlm_runtime.tokenization import XLMTokenizer


def evaluate(output: Path, corpus: Corpus, per_language: int) -> dict[str, dict[str, float]]:
    """Score every checkpoint under `output` and write `figures.json` there."""
    tokenizer = XLMTokenizer.from_pretrained(output / "body")
    sets = held_out_sets(per_language, corpus, tokenizer)
    unigram = Unigram(tokenizer, corpus)
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (task, score, _) in SCORES.items():
            bundle = export(output / name, Path(folder, name), task=task, verify=False).folder
            figures[name] = {key: round(value, 4) for key, value in score(bundle, sets).items()}
            if name == "fill-mask":
                figures[name]["unigram_top5"] = round(unigram.top5(sets.masked), 4)
            if name == "clm":
                figures[name]["unigram_perplexity"] = round(unigram.perplexity(tokenizer, sets.texts), 1)
            print(name, figures[name], flush=True)
    figures["examples"] = {
        "each_template_task": len(sets.questions), "texts": len(sets.texts),
        "masked_tokens": sum(len(item.targets) for item in sets.masked),
    }  # fmt: skip
    (output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures
