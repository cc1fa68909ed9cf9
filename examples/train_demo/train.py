"""The stages of training: MLM with TLM, then all heads together, then mostly MLM, then mostly named entities.

The causal model is trained beside them.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from examples.train_demo.batches import Batch, BatchMaker
from examples.train_demo.corpus import Corpus
from examples.train_demo.models import Encoder, make_config, save_causal, start_as_matching, start_as_sinusoids
from xlm_export.families.layouts import PaddedLayout
from xlm_export.families.xlm.modeling import XLMWithLMHeadModel
from xlm_export.families.xlm.modeling.question_answering import XLMSQuADHead
from xlm_runtime.tokenization import XLMTokenizer


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths. `rows` are examples of each task in a step of the second stage."""

    vocab_size: int = 8000
    template_sentences: int = 1500
    dim: int = 128
    layers: int = 4
    masked_steps: int = 200
    joint_steps: int = 16000
    refining_steps: int = 8000
    settling_steps: int = 1600
    causal_steps: int = 10000
    masked_rows: int = 16
    causal_rows: int = 16
    learning_rate: float = 1e-3
    warmup: int = 100
    report_every: int = 400
    held_out_rows: int = 128
    per_language: int = 60
    seed: int = 2019


# Examples of each task in a step of the second stage, and what the steps in turn hold beside qa and nli, which take
# the longest to learn.
ROWS = {"qa": 14, "nli": 12, "ner": 20, "language-id": 16, "choice": 8, "fill-mask": 24}
TURNS = (("ner",), ("fill-mask", "choice"), ("ner",), ("fill-mask", "language-id"))
# All that a step of the third stage holds, in turns: MLM learns slowest, the other tasks need only not be forgotten.
REFINING = (("fill-mask", "qa"), ("fill-mask",), ("fill-mask", "nli"), ("fill-mask",),
            ("fill-mask", "ner"), ("fill-mask",), ("fill-mask", "choice", "language-id"), ("fill-mask",))  # fmt: skip
REFINING_ROWS = ROWS | {"fill-mask": 32}
# The same of the fourth: named entities had lost most.
SETTLING = (("ner", "fill-mask"), ("ner", "qa"), ("ner", "fill-mask"), ("ner", "qa", "nli"),
            ("ner", "fill-mask"), ("ner", "qa"), ("ner", "fill-mask"), ("ner", "choice", "language-id"))  # fmt: skip
SMOKE = Recipe(
    vocab_size=900, template_sentences=150, dim=32, layers=1, masked_steps=3, joint_steps=4, refining_steps=8,
    settling_steps=8, causal_steps=4, masked_rows=8, causal_rows=8, warmup=2, report_every=4, held_out_rows=8,
    per_language=2,
)  # fmt: skip


class Log:
    """Lines of JSON: what the learning curve is drawn from."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("", encoding="utf-8")
        self.began = time.monotonic()

    def write(self, step: int, **figures: float) -> None:
        line = {"step": step, "seconds": round(time.monotonic() - self.began, 1)}
        text = json.dumps(line | {name: round(value, 4) for name, value in figures.items()})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        print(text, flush=True)


class Optimizer:
    """AdamW with a linear warm-up and a cosine to zero, gradients clipped to norm 5.

    Embeddings take four times the rate: a step shows most of them once or not at all.
    """

    def __init__(self, model: nn.Module, rate: float, warmup: int, steps: int) -> None:
        named = list(model.named_parameters())
        self.parameters = [parameter for _, parameter in named]
        groups = [
            {"params": [parameter for name, parameter in named if "embeddings" in name], "lr": 4 * rate},
            {"params": [parameter for name, parameter in named if "embeddings" not in name]},
        ]
        self.adam = torch.optim.AdamW(groups, rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.adam, factor)

    def step(self) -> None:
        nn.utils.clip_grad_norm_(self.parameters, 5.0)
        self.adam.step()
        self.schedule.step()
        self.adam.zero_grad()


def train_encoder(recipe: Recipe, corpus: Corpus, tokenizer: XLMTokenizer, log: Log, folder: Path) -> None:
    """Stage one, the body by MLM and TLM; stage two, the heads and the body together, MLM still among them."""

    def plan(step: int) -> tuple[tuple[str, ...], dict[str, int]]:
        if step <= recipe.masked_steps:
            return ("fill-mask",), {"fill-mask": recipe.masked_rows}
        return ("qa", "nli", *TURNS[step % len(TURNS)]), ROWS

    torch.manual_seed(recipe.seed)
    encoder = Encoder(make_config(len(tokenizer), recipe.dim, recipe.layers)).train()
    start_at_frequencies(encoder.heads["fill-mask"], tokenizer, corpus)
    batches = BatchMaker(tokenizer, corpus, recipe.seed)
    steps = recipe.masked_steps + recipe.joint_steps
    _train(encoder, batches, recipe, recipe.learning_rate, steps, plan, log, folder)


def refine_encoder(recipe: Recipe, corpus: Corpus, tokenizer: XLMTokenizer, log: Log, folder: Path) -> None:
    """Stage three: what the second wrote, mostly by MLM."""
    encoder, batches = _continued(recipe, corpus, tokenizer, recipe.seed + 3, folder)
    steps, rate = recipe.refining_steps, recipe.learning_rate
    _train(encoder, batches, recipe, rate, steps, lambda step: (REFINING[step % 8], REFINING_ROWS), log, folder)


def settle_encoder(recipe: Recipe, corpus: Corpus, tokenizer: XLMTokenizer, log: Log, folder: Path) -> None:
    """Stage four: what the third wrote, mostly by named entities, at half the rate."""
    encoder, batches = _continued(recipe, corpus, tokenizer, recipe.seed + 4, folder)
    steps, rate = recipe.settling_steps, recipe.learning_rate / 2
    _train(encoder, batches, recipe, rate, steps, lambda step: (SETTLING[step % 8], ROWS), log, folder)


def _continued(
    recipe: Recipe, corpus: Corpus, tokenizer: XLMTokenizer, seed: int, folder: Path
) -> tuple[Encoder, BatchMaker]:
    """The encoder that the stage before wrote, and batches for this one."""
    torch.manual_seed(recipe.seed)
    encoder = Encoder(make_config(len(tokenizer), recipe.dim, recipe.layers)).train()
    encoder.load(folder)
    return encoder, BatchMaker(tokenizer, corpus, seed)


def _train(
    encoder: Encoder,
    batches: BatchMaker,
    recipe: Recipe,
    rate: float,
    steps: int,
    plan: Callable[[int], tuple[tuple[str, ...], dict[str, int]]],
    log: Log,
    folder: Path,
) -> None:
    """`plan` names the tasks of a step, and the rows of each."""
    optimizer = Optimizer(encoder, rate, recipe.warmup, steps)
    sums = Sums()
    for step in range(1, steps + 1):
        names, rows = plan(step)
        for name in names:
            loss = LOSSES[name](encoder, DRAW[name](batches, rows[name]))
            loss.backward()
            sums.add(name, float(loss.detach()))
        optimizer.step()
        if step % recipe.report_every == 0 or step == steps:
            log.write(step, **sums.means(), **monitor(encoder, batches.tokenizer, batches.corpus, recipe))
            encoder.save(folder, folder / "vocabulary")


def train_causal(recipe: Recipe, corpus: Corpus, tokenizer: XLMTokenizer, log: Log, folder: Path) -> None:
    """The causal model: the next token of every text."""
    torch.manual_seed(recipe.seed)
    model = XLMWithLMHeadModel(make_config(len(tokenizer), recipe.dim, recipe.layers, causal=True)).train()
    start_as_sinusoids(model.transformer)
    start_as_matching(model.transformer)
    start_at_frequencies(model, tokenizer, corpus)
    batches = BatchMaker(tokenizer, corpus, recipe.seed + 1)
    optimizer = Optimizer(model, recipe.learning_rate, recipe.causal_steps // 10, recipe.causal_steps)
    sums = Sums()
    for step in range(1, recipe.causal_steps + 1):
        batch = batches.causal(recipe.causal_rows)
        chosen = batch["labels"] != -100
        hidden = model.transformer(batch["input_ids"], batch["attention_mask"], batch["langs"]).last_hidden_state
        loss = functional.cross_entropy(model.pred_layer(hidden[chosen]), batch["labels"][chosen])
        loss.backward()
        optimizer.step()
        sums.add("clm", float(loss.detach()))
        if step % recipe.report_every == 0 or step == recipe.causal_steps:
            log.write(step, **sums.means())
            save_causal(model, folder, folder / "vocabulary")


def start_at_frequencies(model: nn.Module, tokenizer: XLMTokenizer, corpus: Corpus) -> None:
    """The projection's bias at the logarithm of each token's frequency, which Adam reaches slowly."""
    counts = torch.ones(len(tokenizer))
    for lang, texts in corpus.train.items():
        for text in texts:
            ids = torch.tensor(tokenizer.encode(text, lang=lang))
            counts.index_add_(0, ids, torch.ones(len(ids)))
    frequencies = (counts / counts.sum()).log()
    proj: Any = model.pred_layer
    with torch.no_grad():
        proj.proj.bias.copy_(frequencies - frequencies.mean())


class Sums:
    """Mean losses since the last report."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def add(self, name: str, value: float) -> None:
        self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        means = {name: sum(values) / len(values) for name, values in self.values.items()}
        self.values = {}
        return means


def model_inputs(batch: Batch) -> Batch:
    return {name: batch[name] for name in ("input_ids", "attention_mask", "langs")}


def _masked_loss(encoder: Encoder, batch: Batch) -> Tensor:
    """Logits only where a token was masked: at 8,000 words they cost more than the body."""
    head: Any = encoder.heads["fill-mask"]
    logits = head(**model_inputs(batch), logits_to_keep=batch["chosen"]).logits
    return functional.cross_entropy(logits, batch["labels"])


def _question_loss(encoder: Encoder, batch: Batch) -> Tensor:
    """The beam head's start and end losses on questions with an answer, and the no-answer loss on all; and the named
    entities of the paragraphs, which cost nothing beside and teach where answers begin and end.

    The no-answer score is trained as it is used: on the mean state under the start probabilities, never on the
    right start, which would give the answer away.
    """
    head: XLMSQuADHead = encoder.heads["qa"].qa_outputs  # type: ignore[assignment]
    hidden = encoder.body(**model_inputs(batch)).last_hidden_state
    rows = batch["answerable"]
    spans = head.loss(hidden[rows], batch["p_mask"][rows], None, batch["start_positions"][rows],
                      batch["end_positions"][rows], None)  # fmt: skip
    impossible = head(hidden, batch["p_mask"], batch["cls_index"], PaddedLayout())[4]
    tagger: Any = encoder.heads["ner"]
    entities = functional.cross_entropy(tagger.classifier(hidden).flatten(0, 1), batch["entities"].flatten())
    return spans + functional.binary_cross_entropy_with_logits(impossible, 1 - rows.float()) + entities


def _head_loss(name: str) -> Callable[[Encoder, Batch], Tensor]:
    def loss(encoder: Encoder, batch: Batch) -> Tensor:
        value: Tensor = encoder.heads[name](**batch).loss
        return value

    return loss


LOSSES: dict[str, Callable[[Encoder, Batch], Tensor]] = {
    "fill-mask": _masked_loss,
    "qa": _question_loss,
    **{name: _head_loss(name) for name in ("language-id", "nli", "ner", "choice")},
}
DRAW: dict[str, Callable[[BatchMaker, int], Batch]] = {
    "fill-mask": BatchMaker.masked,
    "qa": BatchMaker.questions,
    "language-id": BatchMaker.identification,
    "nli": BatchMaker.inference,
    "ner": BatchMaker.entities,
    "choice": BatchMaker.choices,
}


@torch.no_grad()
def monitor(encoder: Encoder, tokenizer: XLMTokenizer, corpus: Corpus, recipe: Recipe) -> dict[str, float]:
    """Accuracies on a few held-out examples, the same each time: for the learning curve, not for the model card."""
    batches = BatchMaker(tokenizer, corpus, recipe.seed + 2, held_out=True)
    encoder.eval()
    figures = {}
    for name in ("language-id", "nli", "choice"):
        batch = DRAW[name](batches, recipe.held_out_rows)
        labels = batch.pop("labels")
        figures[f"held_out_{name}"] = float((encoder.heads[name](**batch).logits.argmax(-1) == labels).float().mean())
    batch = batches.masked(recipe.held_out_rows)
    fill: Any = encoder.heads["fill-mask"]
    best = fill(**model_inputs(batch), logits_to_keep=batch["chosen"]).logits.topk(5).indices
    figures["held_out_fill-mask_top5"] = float((best == batch["labels"][:, None]).any(-1).float().mean())
    batch = batches.entities(recipe.held_out_rows)
    labels = batch.pop("labels")
    right = encoder.heads["ner"](**batch).logits.argmax(-1) == labels
    figures["held_out_ner"] = float(right[labels > 0].float().mean())
    batch = batches.questions(recipe.held_out_rows)
    output = encoder.heads["qa"](**model_inputs(batch), p_mask=batch["p_mask"], cls_index=batch["cls_index"])
    ends = output.end_top_index.unflatten(1, (encoder.config.end_n_top, -1))[:, 0, 0]
    rows = batch["answerable"]
    exact = (output.start_top_index[:, 0] == batch["start_positions"]) & (ends == batch["end_positions"])
    figures["held_out_qa"] = float(exact[rows].float().mean())
    figures["held_out_qa_no_answer"] = float(((output.cls_logits < 0) == rows).float().mean())
    encoder.train()
    return figures
