"""Labels of tokens and words, and their characters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.pipelines.test_feature_extraction import windowed
from tests.runtime.reference import Reference, probabilities
from tests.runtime.texts import LANGS, TEXTS
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("token-classification", bundles("token-classification"))


@pytest.fixture(scope="module")
def reference(bundles: Bundles) -> Reference:
    return Reference(bundles("token-classification"))


def letters(text: str) -> str:
    return "".join(text.split())


def test_every_token_and_its_characters(pipe, reference: Reference) -> None:
    names = reference.config.id2label
    for text, lang, entities in zip(TEXTS, LANGS, pipe(TEXTS, lang=LANGS, ignore_labels=()), strict=True):
        ids = reference.ids(text, lang=lang)
        scores = probabilities(reference.run(ids, lang))
        assert [entity["index"] for entity in entities] == list(range(1, len(ids) - 1))
        for entity in entities:
            row = scores[entity["index"]]
            assert entity["entity"] == names[int(row.argmax())]
            assert entity["score"] == pytest.approx(row.max(), abs=RUNTIME_FP32)
            assert entity["word"] == reference.tokenizer.convert_ids_to_tokens(ids[entity["index"]])
        assert "".join(text[entity["start"] : entity["end"]] for entity in entities) == letters(text)


def test_the_label_outside_is_left_out(pipe) -> None:
    everything = pipe(TEXTS, ignore_labels=())
    expected = [[entity for entity in row if entity["entity"] != "O"] for row in everything]
    assert pipe(TEXTS) == expected
    assert any(len(some) < len(all_) for some, all_ in zip(expected, everything, strict=True))


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_groups(pipe, reference: Reference, strategy: str) -> None:
    names = reference.config.id2label
    for text, groups in zip(TEXTS, pipe(TEXTS, aggregation_strategy=strategy, ignore_labels=()), strict=True):
        encoding = reference.tokenizer(text, return_offsets_mapping=True)
        ids, spans, words = encoding["input_ids"], encoding["offset_mapping"], encoding.word_ids()
        scores = probabilities(reference.run(ids))
        pieces = []  # (label, score, start, end, tokens)
        inside = range(1, len(ids) - 1)
        units = [[i] for i in inside]
        if strategy != "simple":
            units = [[i for i in inside if words[i] == word] for word in dict.fromkeys(words[1:-1])]
        for unit in units:
            row = {
                "simple": scores[unit[0]],
                "first": scores[unit[0]],
                "average": scores[unit].mean(axis=0),
                "max": scores[max(unit, key=lambda i: scores[i].max())],
            }[strategy]
            tokens = [reference.tokenizer.convert_ids_to_tokens(ids[i]) for i in unit]
            pieces.append((names[int(row.argmax())], row.max(), spans[unit[0]][0], spans[unit[-1]][1], tokens))
        expected = []
        for label, score, start, end, tokens in pieces:
            kind = label.split("-")[-1]
            if expected and expected[-1]["kind"] == kind and not label.startswith("B-"):
                expected[-1]["scores"].append(score)
                expected[-1]["end"] = end
                expected[-1]["tokens"] += tokens
            else:
                expected.append({"kind": kind, "scores": [score], "start": start, "end": end, "tokens": list(tokens)})
        assert [group["entity_group"] for group in groups] == [group["kind"] for group in expected]
        for group, other in zip(groups, expected, strict=True):
            assert (group["start"], group["end"]) == (other["start"], other["end"])
            assert group["score"] == pytest.approx(np.mean(other["scores"]), abs=RUNTIME_FP32)
            assert group["word"] == reference.tokenizer.convert_tokens_to_string(other["tokens"])


class Labels:
    """A session that gives each position the label of a list, with probability 1/2 or so."""

    input_names = ("input_ids", "attention_mask", "langs")
    output_names = ("logits",)

    def __init__(self, labels: list[int]) -> None:
        self.logits = 2 * np.eye(5, dtype=np.float32)[[0, *labels, 0]]

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert inputs["input_ids"].shape == (1, len(self.logits))
        return {"logits": self.logits[None]}


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("simple", [("PER", "Anna"), ("PER", "Müller wo"), ("LOC", "hnt"), ("LOC", "Hamburg")]),
        # the word wo|hnt is I-PER by its first token, and by the average and the highest score, which are ties
        ("first", [("PER", "Anna"), ("PER", "Müller wohnt"), ("LOC", "Hamburg")]),
        ("max", [("PER", "Anna"), ("PER", "Müller wohnt"), ("LOC", "Hamburg")]),
    ],
)
def test_where_groups_begin(bundles: Bundles, strategy: str, expected: list[tuple[str, str]]) -> None:
    pipe = pipeline("token-classification", bundles("token-classification"))
    #                          Anna Müller wo hnt in Hamburg .
    pipe.model.session = Labels([1, 1, 2, 4, 0, 4, 0])
    text = "Anna Müller wohnt in Hamburg."
    groups = pipe(text, aggregation_strategy=strategy)
    assert [(group["entity_group"], text[group["start"] : group["end"]]) for group in groups] == expected


def test_unknown_strategy(pipe) -> None:
    with pytest.raises(InputError, match="Unknown aggregation_strategy 'last'; expected one of none, simple"):
        pipe(TEXTS[0], aggregation_strategy="last")


@pytest.mark.parametrize(("longest", "stride"), [(64, 0), (64, 30), (20, 9)])
def test_long_texts_are_read_in_windows(pipe, reference: Reference, longest: int, stride: int) -> None:
    text = " ".join(TEXTS)
    scores = probabilities(windowed(reference, text, longest, stride))
    entities = pipe(text, stride=stride, max_length=longest, ignore_labels=())
    encoding = reference.tokenizer(text, return_offsets_mapping=True)
    assert [entity["index"] for entity in entities] == list(range(1, len(scores) - 1))
    for entity in entities:
        row, place = scores[entity["index"]], entity["index"]
        assert entity["entity"] == reference.config.id2label[int(row.argmax())]
        assert entity["score"] == pytest.approx(row.max(), abs=RUNTIME_FP32)
        assert (entity["start"], entity["end"]) == encoding["offset_mapping"][place]
    # each word once: groups of words of one kind stand side by side
    groups = pipe(text, stride=stride, max_length=longest, ignore_labels=(), aggregation_strategy="first")
    assert "".join(letters(text[group["start"] : group["end"]]) for group in groups) == letters(text)
    assert all(one["end"] <= two["start"] for one, two in pairwise(groups))


def test_one_window_is_the_text_itself(pipe) -> None:
    for strategy in ("none", "simple", "first"):
        options = {"aggregation_strategy": strategy, "ignore_labels": ()}
        for one, two in zip(pipe(TEXTS, stride=8, **options), pipe(TEXTS, **options), strict=True):
            assert [{**item, "score": 0} for item in one] == [{**item, "score": 0} for item in two]


WORDS = ["Anna", "Müller", "wohnt", "in", "St.", "Pölten-Süd", "don't", "New York", "."]


@pytest.mark.parametrize("lang", [None, "de"])
def test_words_have_a_label_each(pipe, reference: Reference, lang: str | None) -> None:
    encoding = reference.tokenizer(WORDS, lang=lang, is_split_into_words=True)
    scores = probabilities(reference.run(encoding["input_ids"], lang))
    numbers, text = encoding.word_ids(), " ".join(WORDS)
    entities = pipe(WORDS, is_split_into_words=True, ignore_labels=(), lang=lang)
    assert [entity["index"] for entity in entities] == list(range(len(WORDS)))
    for word, entity in zip(WORDS, entities, strict=True):
        row = scores[numbers.index(entity["index"])]  # of its first token
        assert entity["entity"] == reference.config.id2label[int(row.argmax())]
        assert entity["score"] == pytest.approx(row.max(), abs=RUNTIME_FP32)
        assert entity["word"] == word == text[entity["start"] : entity["end"]]
    for other in (
        pipe([WORDS, WORDS[:3]], is_split_into_words=True, ignore_labels=(), lang=lang)[0],
        pipe({"words": WORDS, "lang": lang}, ignore_labels=()),
        next(iter(pipe(iter([tuple(WORDS)]), is_split_into_words=True, ignore_labels=(), lang=lang))),
        pipe(WORDS, is_split_into_words=True, ignore_labels=(), lang=lang, stride=4, max_length=len(numbers)),
    ):
        assert [item["entity"] for item in other] == [item["entity"] for item in entities]
    groups = pipe(WORDS, is_split_into_words=True, ignore_labels=(), lang=lang, aggregation_strategy="first")
    starts = {entity["start"] for entity in entities}
    assert all(group["start"] in starts for group in groups)
    cut = pipe(WORDS, is_split_into_words=True, ignore_labels=(), lang=lang, truncation=True, max_length=9)
    assert [item["word"] for item in cut] == WORDS[: len(cut)]


def test_words_that_cannot_be_used(pipe) -> None:
    for words, message in (
        (["Anna", "\u00ad", "wohnt"], r"Word 2 of the text, '\\xad', has no tokens"),
        ([["Anna"], "Anna wohnt"], "item 2: 'words' must be a list of strings"),
        ([["Anna", 3]], "item 1: 'words' must be a list of strings"),
        ([[]], "item 1: The text is empty"),
        ({"words": ["a"], "text": "a"}, "Unknown key 'text'"),
        ({"text": "a"}, "Unknown key 'text'"),
    ):
        with pytest.raises(InputError, match=message):
            pipe(words, is_split_into_words=True)
    assert pipe([], is_split_into_words=True) == []


def test_ignored_labels(pipe) -> None:
    everything = pipe(TEXTS[2], ignore_labels=())
    label = everything[0]["entity"]
    for ignored in (label, [label]):
        expected = [entity for entity in everything if entity["entity"] != label]
        assert pipe(TEXTS[2], ignore_labels=ignored) == expected
