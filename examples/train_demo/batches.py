"""Batches of every task as tensors.

Part of the examples is read without a language, as the runtime does when none is given: English tokenizer rules and
English language embedding.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from examples.train_demo.corpus import Corpus, real_text
from examples.train_demo.facts import LANGUAGES, World
from examples.train_demo.tasks import (
    NLI_LABELS,
    Choices,
    Entities,
    Labelled,
    Question,
    make_choices,
    make_entities,
    make_inference,
    make_question,
    world_of,
)
from examples.train_demo.vocabulary import LANG2ID, POSITIONS
from xlm_runtime.tokenization import XLMTokenizer

Batch = dict[str, Tensor]
T = TypeVar("T")
# ids, and the language of each
Encoded = tuple[list[int], list[int]]

ENTITY_LABELS = ("O", *(f"{begin}-{kind}" for kind in ("PER", "LOC", "ORG", "DATE") for begin in "BI"))
END, PAD, MASK = 1, 2, 5
NO_LANG_SHARE = 0.25
LONGEST_TEXT = 96
# batches that are drawn at once and sorted by length
POOL = 12


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(rows, longest) int64."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def tags(spans: Sequence[tuple[int, int]], entities: Sequence[tuple[str, int, int]]) -> list[int]:
    """The label of each token, of its characters `spans`."""
    labels = [0] * len(spans)
    for kind, start, end in entities:
        inside = [i for i, span in enumerate(spans) if span[0] < end and span[1] > start]
        for number, i in enumerate(inside):
            labels[i] = ENTITY_LABELS.index(f"{'I' if number else 'B'}-{kind}")
    return labels


class BatchMaker:
    """Draws training batches; the same seed gives the same batches."""

    def __init__(self, tokenizer: XLMTokenizer, corpus: Corpus, seed: int, held_out: bool = False) -> None:
        self.tokenizer, self.corpus, self.held_out = tokenizer, corpus, held_out
        self.rng = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.pools: dict[str, list[Any]] = {}
        self.real = {} if held_out else real_text(corpus)

    def world(self) -> World:
        return world_of(self.rng, self.held_out, self.real)

    def language(self, lang: str) -> str | None:
        """The language to tokenize with, None for a part of the texts."""
        return None if self.rng.random() < NO_LANG_SHARE else lang

    def encode(self, text: str, pair: str | None, lang: str | None) -> Encoded:
        """Ids with special tokens, and the language of each."""
        ids: list[int] = self.tokenizer(text, pair, lang=lang)["input_ids"]
        return ids, [LANG2ID[lang or "en"]] * len(ids)

    def inputs(self, rows: Sequence[Encoded]) -> Batch:
        ids = pad([ids[:POSITIONS] for ids, _ in rows], PAD)
        langs = pad([langs[:POSITIONS] for _, langs in rows], 0)
        return {"input_ids": ids, "attention_mask": (ids != PAD).long(), "langs": langs}

    def text(self, lang: str) -> str:
        """A training text, real or of templates."""
        texts = (self.corpus.held_out if self.held_out else self.corpus.train)[lang]
        kind = self.rng.random()
        if self.held_out or (kind < 0.65 and texts):
            return self.rng.choice(texts)
        world = World(lang, self.rng, False)
        if kind < 0.85:
            return make_question(world).context
        question = make_question(world)
        return question.question + " " + question.context

    def masked(self, rows: int) -> Batch:
        """MLM on texts and TLM on translations: 30 % of the tokens (Wettig et al. 2023: more than 15 % teach a small
        model more), of which 80 % become the mask and 10 % any token."""
        return self.mask(self.inputs(self.alike(self._translation_or_text, rows)))

    def _translation_or_text(self) -> Encoded:
        if self.corpus.pairs and not self.held_out and self.rng.random() < 0.3:
            pair = list(self.rng.choice(self.corpus.pairs))
            self.rng.shuffle(pair)
            (lang, first), (other, second) = pair
            a = self.tokenizer.encode(first, lang=lang, add_special_tokens=False)[:LONGEST_TEXT]
            b = self.tokenizer.encode(second, lang=other, add_special_tokens=False)[:LONGEST_TEXT]
            langs = [LANG2ID[lang]] * (len(a) + 2) + [LANG2ID[other]] * (len(b) + 1)
            return [0, *a, 1, *b, 1], langs
        lang = self.rng.choice(LANGUAGES)
        ids, langs = self.encode(self.text(lang), None, self.language(lang))
        return ids[:LONGEST_TEXT], langs[:LONGEST_TEXT]

    def mask(self, batch: Batch) -> Batch:
        ids = batch["input_ids"]
        draw = torch.rand(ids.shape, generator=self.generator)
        chosen = (draw < 0.3) & (ids > 3)
        if not chosen.any():
            chosen[0, 1] = True
        fate = torch.rand(ids.shape, generator=self.generator)
        anything = torch.randint(14, len(self.tokenizer), ids.shape, generator=self.generator)
        noisy = torch.where(fate < 0.8, torch.full_like(ids, MASK), torch.where(fate < 0.9, anything, ids))
        return batch | {"input_ids": torch.where(chosen, noisy, ids), "labels": ids[chosen], "chosen": chosen}

    def causal(self, rows: int) -> Batch:
        """Texts for the causal model, `</s> text </s>` as XLM's streams have them; labels are the next tokens."""
        batch = self.inputs(self.alike(self._stream, rows))
        ids = batch["input_ids"]
        labels = torch.cat((ids[:, 1:], torch.full_like(ids[:, :1], PAD)), dim=1)
        return batch | {"labels": labels.masked_fill(labels == PAD, -100)}

    def _stream(self) -> Encoded:
        lang = self.rng.choice(LANGUAGES)
        ids, langs = self.encode(self.text(lang), None, lang)
        return [END, *ids[1:LONGEST_TEXT]], langs[:LONGEST_TEXT]

    def identification(self, rows: int) -> Batch:
        """Texts read without a language, the language being the label; half are cut to a few words."""
        examples = self.alike(self._any_language, rows)
        labels = torch.tensor([LANG2ID[lang] for _, lang in examples])
        return self.inputs([encoded for encoded, _ in examples]) | {"labels": labels}

    def _any_language(self) -> tuple[Encoded, str]:
        lang = self.rng.choice(LANGUAGES)
        text = self.text(lang)
        words = text.split()
        if not self.held_out and len(words) > 5 and self.rng.random() < 0.5:
            length = self.rng.randint(4, min(len(words), 12))
            start = self.rng.randint(0, len(words) - length)
            text = " ".join(words[start : start + length])
        ids, langs = self.encode(text, None, None)
        return (ids[:48], langs[:48]), lang

    def alike(self, draw: Callable[[], T], rows: int) -> list[T]:
        """`rows` examples of about the same length, so that little is padding; training only."""
        if self.held_out:
            return [draw() for _ in range(rows)]
        pool = self.pools.setdefault(draw.__name__, [])
        if not pool:
            examples = sorted((draw() for _ in range(POOL * rows)), key=lambda item: len(str(item)))
            pool += [examples[i * rows : (i + 1) * rows] for i in range(POOL)]
            self.rng.shuffle(pool)
        return pool.pop()

    def _inference(self) -> Labelled:
        return make_inference(self.world())

    def _entities(self) -> Entities:
        return make_entities(self.world())

    def _choices(self) -> Choices:
        return make_choices(self.world())

    def _question(self) -> Question:
        return make_question(self.world())

    def inference(self, rows: int) -> Batch:
        return self.labelled(self.alike(self._inference, rows))

    def labelled(self, examples: Sequence[Labelled]) -> Batch:
        rows = [self.encode(item.text, item.pair, self.language(item.lang)) for item in examples]
        labels = [NLI_LABELS.index(item.label) for item in examples]
        return self.inputs(rows) | {"labels": torch.tensor(labels)}

    def entities(self, rows: int) -> Batch:
        return self.tagged(self.alike(self._entities, rows))

    def tagged(self, examples: Sequence[Entities]) -> Batch:
        rows, labels = [], []
        for item in examples:
            lang = self.language(item.lang)
            encoding = self.tokenizer(item.text, lang=lang, return_offsets_mapping=True)
            ids, spans = encoding["input_ids"], encoding["offset_mapping"]
            rows.append((ids, [LANG2ID[lang or "en"]] * len(ids)))
            row = [-100, *tags(spans[1:-1], item.entities), -100]
            labels.append(row)
        return self.inputs(rows) | {"labels": pad(labels, -100)}

    def choices(self, rows: int) -> Batch:
        return self.chosen(self.alike(self._choices, rows))

    def chosen(self, examples: Sequence[Choices]) -> Batch:
        """Inputs are (rows, choices, sequence)."""
        rows = []
        for item in examples:
            lang = self.language(item.lang)
            rows += [self.encode(item.prompt, choice, lang) for choice in item.choices]
        batch = {name: value.unflatten(0, (len(examples), -1)) for name, value in self.inputs(rows).items()}
        return batch | {"labels": torch.tensor([item.label for item in examples])}

    def questions(self, rows: int) -> Batch:
        return self.asked(self.alike(self._question, rows))

    def asked(self, examples: Sequence[Question]) -> Batch:
        """`<s> question </s> context </s>`; questions whose answer is no whole tokens are left out."""
        rows, starts, ends, firsts, answerable, labels = [], [], [], [], [], []
        for item in examples:
            lang = self.language(item.lang)
            question = self.tokenizer.encode(item.question, lang=lang, add_special_tokens=False)
            encoding = self.tokenizer(item.context, lang=lang, add_special_tokens=False, return_offsets_mapping=True)
            spans, first = encoding["offset_mapping"], len(question) + 2
            start = end = first
            if item.start >= 0:
                stop = item.start + len(item.answer)
                inside = [i for i, span in enumerate(spans) if span[0] < stop and span[1] > item.start]
                if not inside or (spans[inside[0]][0], spans[inside[-1]][1]) != (item.start, stop):
                    continue
                start, end = first + inside[0], first + inside[-1]
            ids = [0, *question, 1, *encoding["input_ids"], 1]
            rows.append((ids, [LANG2ID[lang or "en"]] * len(ids)))
            starts.append(start)
            ends.append(end)
            firsts.append(first)
            answerable.append(item.start >= 0)
            labels.append([-100] * first + tags(spans, item.entities) + [-100])
        batch = self.inputs(rows)
        steps, first_tensor = torch.arange(batch["input_ids"].shape[1]), torch.tensor(firsts)
        lengths = batch["attention_mask"].sum(dim=1)
        p_mask = (steps < first_tensor[:, None]) | (steps >= lengths[:, None] - 1)
        return batch | {
            "start_positions": torch.tensor(starts), "end_positions": torch.tensor(ends), "p_mask": p_mask.float(),
            "cls_index": first_tensor - 1, "answerable": torch.tensor(answerable),
            "entities": pad(labels, -100),
        }  # fmt: skip
