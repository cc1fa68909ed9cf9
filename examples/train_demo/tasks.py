"""Examples of every task, as texts: what training and the held-out figures are made of."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from examples.train_demo.facts import ENTITY, RELATIONS, SLOT, TASK_LANGUAGES, Fact, RealText, Text, World

NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class Question:
    """`start` is the first character of the answer, -1 where the context has none; `entities` are the context's."""

    lang: str
    question: str
    context: str
    answer: str
    start: int
    entities: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Labelled:
    """A text, or a pair, with a label."""

    lang: str
    text: str
    pair: str | None
    label: str


@dataclass(frozen=True)
class Entities:
    """A text with its entities: (label, start, end) in characters."""

    lang: str
    text: str
    entities: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Choices:
    lang: str
    prompt: str
    choices: tuple[str, ...]
    label: int


def make_question(world: World) -> Question:
    """Two or three facts about two people, and a question on one of them or on a fact that is not there."""
    rng = world.rng
    people = [world.person(), world.person()]
    while people[0].name == people[1].name:
        people[1] = world.person()
    pairs = [(person, relation) for person in people for relation in RELATIONS]
    count = rng.randint(2, 3)
    chosen = rng.sample(pairs, count + 1)
    facts = [world.fact(*pair) for pair in chosen[:count]]
    sentences = [world.say(fact)[1] for fact in facts]
    if rng.random() < 0.3:
        sentences.insert(rng.randint(0, count), world.filler())
    context = world.join(sentences)
    entities = entities_of(context)
    if rng.random() < 0.6:
        target = rng.choice(facts)
        values = [s for s in context.spans if s[0] == SLOT[target.relation]]
        index = [fact for fact in facts if fact.relation == target.relation].index(target)
        _, start, end = values[index]
        return Question(world.lang, world.ask(target), context.text, context.text[start:end], start, entities)
    missing = world.fact(*chosen[count])
    return Question(world.lang, world.ask(missing), context.text, "", -1, entities)


def make_entities(world: World) -> Entities:
    """One or two sentences, sometimes with nothing in them."""
    rng = world.rng
    sentences: list[Text] = []
    for _ in range(rng.choice((1, 1, 2))):
        fact = world.fact(world.person(), rng.choice(RELATIONS))
        sentences.append(world.say(fact)[1] if rng.random() < 0.8 else world.filler())
    text = world.join(sentences)
    return Entities(world.lang, text.text, entities_of(text))


def entities_of(text: Text) -> tuple[tuple[str, int, int], ...]:
    """(label, start, end) of the slots that are named entities."""
    return tuple((ENTITY[slot], start, end) for slot, start, end in text.spans if slot in ENTITY)


def make_inference(world: World) -> Labelled:
    """A premise of one or two facts and a hypothesis: said otherwise, contradicted, or about something else."""
    rng = world.rng
    person = world.person()
    relations = rng.sample(RELATIONS, 3)
    facts = [world.fact(person, relation) for relation in relations[: rng.choice((1, 1, 2))]]
    said = [world.say(fact) for fact in facts]
    premise = world.join([text for _, text in said]).text
    fact, template = facts[0], said[0][0]
    label = rng.choice(NLI_LABELS)
    if rng.random() < 0.3:  # a topic, as zero-shot classification asks for it
        absent = [relation for relation in RELATIONS if relation not in relations[: len(facts)]]
        label = rng.choice(("entailment", "contradiction"))
        hypothesis = world.about(fact.relation if label == "entailment" else rng.choice(absent))
    elif label == "entailment":
        hypothesis = world.say(fact, avoid=template, frame=False)[1].text
    elif label == "neutral":
        other = (
            world.fact(person, relations[2]) if rng.random() < 0.7 else Fact(world.person(), fact.relation, fact.value)
        )
        hypothesis = world.say(other, frame=False)[1].text
    elif rng.random() < 0.5:
        hypothesis = world.deny(fact)
    else:
        wrong = fact
        while wrong.value == fact.value:
            wrong = world.fact(person, fact.relation)
        hypothesis = world.say(wrong, frame=False)[1].text
    return Labelled(world.lang, premise, hypothesis, label)


def make_choices(world: World) -> Choices:
    """A question and three answers, of which one is of the kind that was asked for."""
    rng = world.rng
    person, relations = world.person(), rng.sample(RELATIONS, 3)
    facts = [world.fact(person, relation) for relation in relations]
    question = world.ask(facts[0])
    values = [fact.value for fact in facts]
    rng.shuffle(values)
    return Choices(world.lang, question, tuple(values), values.index(facts[0].value))


def world_of(rng: random.Random, held_out: bool, real: Mapping[str, RealText]) -> World:
    """A world in one of the task languages, drawn at random."""
    lang = rng.choice(TASK_LANGUAGES)
    return World(lang, rng, held_out, real.get(lang))
