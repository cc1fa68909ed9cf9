"""Task quality beside speed: a trained classifier through every contender, on held-out pairs with their labels."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.process import ROOT, ContenderError
from benchmarks.protocol import EIGHT, Contender, Record, Settings, Spec
from benchmarks.workloads import Row
from xlm_runtime.tokenization import XLMTokenizer

CHECKPOINT = ROOT / "examples" / "checkpoints" / "nli"
PER_LANGUAGE = 60


@dataclass(frozen=True)
class Labelled:
    """Pairs as ids, and their labels' numbers."""

    rows: Sequence[Row]
    labels: Sequence[int]


def copy_checkpoint(source: Path, target: Path) -> None:
    """A copy of a checkpoint's folder with the shards that its index finds in other folders, each under its number.
    It gets its name when it is whole."""
    temporary = target.with_name(f".{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary)
    for index in temporary.glob("*.index.json"):
        contents = json.loads(index.read_text(encoding="utf-8"))
        shards = sorted(set(contents["weight_map"].values()))
        names = {shard: f"shard-{i}{Path(shard).suffix}" for i, shard in enumerate(shards) if Path(shard).name != shard}
        for shard, name in names.items():
            shutil.copyfile(source / shard, temporary / name)
        contents["weight_map"] = {key: names.get(shard, shard) for key, shard in contents["weight_map"].items()}
        index.write_text(json.dumps(contents), encoding="utf-8")
    temporary.rename(target)


def read_pairs(checkpoint: Path, per_language: int = PER_LANGUAGE) -> Labelled:
    """The held-out pairs of the demo's inference task in the checkpoint's own ids and label numbers."""
    from examples.train_demo.held_out import held_out_sets

    tokenizer = XLMTokenizer.from_pretrained(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    numbers = {label: int(number) for number, label in config["id2label"].items()}
    pairs = held_out_sets(per_language, None, tokenizer).inferences
    rows = [
        Row(tokenizer(pair.text, pair.pair, lang=pair.lang)["input_ids"], config["lang2id"][pair.lang])
        for pair in pairs
    ]
    return Labelled(rows, [numbers[pair.label] for pair in pairs])


def measure_quality(
    specs: Sequence[Spec],
    labelled: Labelled,
    task: str,
    settings: Settings,
    log: Path,
    record: Record,
    progress: Callable[[str], None],
) -> None:
    """Answer the pairs with one contender after the other. Records "quality" with the share of right labels."""
    labels = np.array(labelled.labels)
    for spec in specs:
        if spec.side == "bound":
            continue
        progress(f"quality: {spec.name}")
        contender = Contender(spec, settings, log)
        try:
            contender.start()
            logits = np.array(contender.run([labelled.rows], spec.ways[-1], EIGHT, True)["outputs"])
        except ContenderError as error:
            record({"kind": "failed", "contender": spec.name, "workload": "quality", "reason": str(error)})
            continue
        finally:
            contender.close()
        accuracy = float((logits.argmax(axis=1) == labels).mean())
        record({"kind": "quality", "task": task, "contender": spec.name, "accuracy": accuracy, "rows": len(labels)})
