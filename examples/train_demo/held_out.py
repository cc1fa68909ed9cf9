"""The held-out sets and how answers on them are scored. Every answer comes from an exported bundle and its pipeline.

Template sets use sentences, questions, names, places, companies and things that training never saw; text sets the
texts that the split holds back.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.train_demo.batches import LONGEST_TEXT, MASK
from examples.train_demo.corpus import Corpus
from examples.train_demo.facts import LANGUAGES, TASK_LANGUAGES, World
from examples.train_demo.tasks import (
    Choices,
    Entities,
    Labelled,
    Question,
    make_choices,
    make_entities,
    make_inference,
    make_question,
)
from examples.train_demo.vocabulary import LANG2ID, POSITIONS
from xlm_runtime import pipeline
from xlm_runtime.model.model import BundleModel, TokenSequence
from xlm_runtime.model.opening import open_model
from xlm_runtime.tokenization import XLMTokenizer

Figures = dict[str, float]
SEED = 70


@dataclass(frozen=True)
class MaskedText:
    """Ids with masks, the masks' positions and what stood there."""

    lang: str
    ids: list[int]
    positions: list[int]
    targets: list[int]


@dataclass(frozen=True)
class HeldOut:
    """The sets; `texts` and `masked` are empty where the reference folder is absent."""

    questions: list[Question]
    entities: list[Entities]
    inferences: list[Labelled]
    choices: list[Choices]
    texts: list[tuple[str, str]]
    masked: list[MaskedText]


def held_out_sets(per_language: int, corpus: Corpus | None, tokenizer: XLMTokenizer) -> HeldOut:
    """The same examples every time: `per_language` of each template task, and the corpus's held-out texts."""
    worlds = [World(lang, random.Random(SEED + i), held_out=True) for i, lang in enumerate(TASK_LANGUAGES)]
    texts = [
        (lang, text)
        for lang in LANGUAGES
        for text in (corpus.held_out[lang] if corpus else [])
        if len(tokenizer.encode(text, lang=lang)) <= POSITIONS
    ]

    def draw(make: Callable[[World], Any]) -> list[Any]:
        return [make(world) for world in worlds for _ in range(per_language)]

    return HeldOut(
        draw(make_question), draw(make_entities), draw(make_inference), draw(make_choices), texts,
        [masked for lang, text in texts if (masked := mask_text(tokenizer, lang, text))],
    )  # fmt: skip


def mask_text(tokenizer: XLMTokenizer, lang: str, text: str) -> MaskedText | None:
    """About every seventh token of a text masked; None for one without tokens."""
    ids = tokenizer.encode(text, lang=lang)[:LONGEST_TEXT]
    places = [i for i, index in enumerate(ids) if index > 3]
    if not places:
        return None
    chosen = sorted(random.Random(text).sample(places, max(1, len(places) // 7)))
    masked = [MASK if i in chosen else index for i, index in enumerate(ids)]
    return MaskedText(lang, masked, chosen, [ids[i] for i in chosen])


class Unigram:
    """Token frequencies of each language's training text, one added to every count: the baseline."""

    def __init__(self, tokenizer: XLMTokenizer, corpus: Corpus) -> None:
        self.log_probabilities: dict[str, NDArray[np.float64]] = {}
        for lang in LANGUAGES:
            counts = Counter(i for text in corpus.train[lang] for i in tokenizer.encode(text, lang=lang)[1:])
            values = np.array([counts[i] + 1 for i in range(len(tokenizer))], np.float64)
            self.log_probabilities[lang] = np.log(values / values.sum())

    def top5(self, examples: list[MaskedText]) -> float:
        best = {lang: set(np.argsort(-values)[:5].tolist()) for lang, values in self.log_probabilities.items()}
        hits = [target in best[item.lang] for item in examples for target in item.targets]
        return sum(hits) / len(hits)

    def perplexity(self, tokenizer: XLMTokenizer, texts: list[tuple[str, str]]) -> float:
        losses = [
            -self.log_probabilities[lang][index]
            for lang, text in texts
            for index in tokenizer.encode(text, lang=lang, add_special_tokens=False)
        ]
        return math.exp(sum(losses) / len(losses))


def score_language_id(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    """Read without a language, as it has to be."""
    classify = pipeline("text-classification", model=bundle, **options)
    answers = classify([text for _, text in sets.texts], truncation=True)
    right = [answer["label"] == lang for answer, (lang, _) in zip(answers, sets.texts, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def score_nli(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    classify = pipeline("text-classification", model=bundle, **options)
    items = [{"text": item.text, "text_pair": item.pair, "lang": item.lang} for item in sets.inferences]
    right = [a["label"] == item.label for a, item in zip(classify(items), sets.inferences, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def score_ner(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    """Whole entities: the right kind from the right first to the right last character."""
    tag = pipeline("token-classification", model=bundle, **options)
    answers = tag(
        [item.text for item in sets.entities],
        lang=[item.lang for item in sets.entities],
        aggregation_strategy="first",
    )
    found = right = expected = 0
    for answer, item in zip(answers, sets.entities, strict=True):
        spans = {(group["entity_group"], group["start"], group["end"]) for group in answer}
        found, expected = found + len(spans), expected + len(item.entities)
        right += len(spans & set(item.entities))
    precision, recall = right / max(1, found), right / expected
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(1e-9, precision + recall)}


def score_qa(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    """Exact match over all questions, where "no answer" can be right; and how often answered and not is told apart."""
    ask = pipeline("question-answering", model=bundle, **options)
    items = [{"question": q.question, "context": q.context, "lang": q.lang} for q in sets.questions]
    answers = [answer["answer"] for answer in ask(items, handle_impossible_answer=True)]
    pairs = list(zip(answers, sets.questions, strict=True))
    exact = [answer == question.answer for answer, question in pairs]
    answerable = [answer == question.answer for answer, question in pairs if question.answer]
    told = [bool(answer) == bool(question.answer) for answer, question in pairs]
    refused = [not answer for answer, question in pairs if not question.answer]
    return {
        "exact_match": sum(exact) / len(exact),
        "exact_match_answerable": sum(answerable) / len(answerable),
        "answerability": sum(told) / len(told),
        "unanswerable_refused": sum(refused) / len(refused),
    }


def score_choice(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    choose = pipeline("multiple-choice", model=bundle, **options)
    items = [{"prompt": item.prompt, "choices": list(item.choices), "lang": item.lang} for item in sets.choices]
    right = [answer["index"] == item.label for answer, item in zip(choose(items), sets.choices, strict=True)]
    return {"accuracy": sum(right) / len(right)}


def score_masked(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    """How often the masked token is among the five best."""
    model = open_model(bundle, "fill-mask", **options)
    hits = []
    for item in sets.masked:
        logits = _logits(model, item.ids, item.lang, item.positions)
        best = np.argpartition(-logits, 5, axis=1)[:, :5]
        hits += [target in row for target, row in zip(item.targets, best, strict=True)]
    return {"top5": sum(hits) / len(hits)}


def score_causal(bundle: Path, sets: HeldOut, **options: Any) -> Figures:
    """Perplexity a token."""
    generate = pipeline("text-generation", model=bundle, **options)
    scores = generate.score([text for _, text in sets.texts], lang=[lang for lang, _ in sets.texts])
    log_probabilities = [value for score in scores for value in score["token_log_probs"]]
    return {"perplexity": math.exp(-sum(log_probabilities) / len(log_probabilities))}


def _logits(model: BundleModel, ids: list[int], lang: str, positions: list[int]) -> NDArray[np.float32]:
    """(positions, vocab_size)."""
    row = TokenSequence("", None, ids, LANG2ID[lang])
    outputs = model.run([row], {"logit_positions": np.array(positions, np.int64)})
    logits: NDArray[np.float32] = outputs["logits"]
    return logits


# checkpoint folder → task to export, how it is scored, whether it needs real text
SCORES: dict[str, tuple[str, Callable[..., Figures], bool]] = {
    "language-id": ("text-classification", score_language_id, True),
    "nli": ("text-classification", score_nli, False),
    "ner": ("token-classification", score_ner, False),
    "qa": ("question-answering", score_qa, False),
    "choice": ("multiple-choice", score_choice, False),
    "fill-mask": ("fill-mask", score_masked, True),
    "clm": ("text-generation", score_causal, True),
}
