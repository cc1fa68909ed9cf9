"""The recipe of the demo checkpoints: its parts, and all of it in a tiny run on template text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from examples.train_demo.__main__ import main
from examples.train_demo.bpe import SPECIALS, learn_vocabulary
from examples.train_demo.corpus import is_held_out, read_corpus, template_corpus
from examples.train_demo.facts import HELD_OUT, LANGUAGES, RELATIONS, World, read_templates
from examples.train_demo.publish import publish
from examples.train_demo.tasks import make_entities, make_inference, make_question
from xlm_runtime.tokenization.bpe import BytePairs


def test_merges_of_a_small_text() -> None:
    # "low" 5, "lower" 2, "newest" 6: e+s and s+t occur 6 times each; the earlier pair wins
    vocabulary, merges = learn_vocabulary({"low": 5, "lower": 2, "newest": 6}, 10_000)
    assert merges[0][2] >= merges[-1][2]
    assert list(vocabulary)[: len(SPECIALS)] == list(SPECIALS)
    ranks = {f"{left} {right}": rank for rank, (left, right, _) in enumerate(merges)}
    pairs = BytePairs(ranks)
    assert pairs.symbols("newest") == ["newest</w>"]
    assert all(piece in vocabulary for piece in pairs.symbols("lowest"))


def test_a_vocabulary_has_the_size_asked_for() -> None:
    words = dict.fromkeys(["abcd", "abce", "abcf", "bcde", "cdef", "defg", "efgh"], 2)
    size = len(learn_vocabulary(words, 0)[0])
    assert len(learn_vocabulary(words, size + 3)[0]) == size + 3


@pytest.mark.parametrize("lang", LANGUAGES)
def test_held_out_facts_share_nothing_with_training(lang: str) -> None:
    data = read_templates(lang)
    for kind in ("male", "female", "family", "city", "org", "noun"):
        worlds = [World(lang, random.Random(0), held_out) for held_out in (False, True)]
        train, held_out = (set(world.share(data[kind], kind)) for world in worlds)
        assert not train & held_out
        assert len(held_out) == HELD_OUT[kind]
    for relation in RELATIONS:
        for kind in ("say", "ask"):
            assert len(set(data[relation][kind])) == len(data[relation][kind])


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("held_out", [False, True])
def test_examples_point_at_what_they_say(lang: str, held_out: bool) -> None:
    world = World(lang, random.Random(1), held_out)
    for _ in range(50):
        question = make_question(world)
        assert question.answer == question.context[question.start :][: len(question.answer)] if question.answer else 1
        for _, start, end in make_entities(world).entities:
            assert 0 <= start < end
        assert make_inference(world).pair
        assert not any(mark in question.context + question.question for mark in "{}[]|")


def test_the_same_text_is_on_one_side_of_the_split() -> None:
    corpus = template_corpus(200, seed=3)
    assert is_held_out("a text ") == is_held_out("a text")
    assert all(corpus.train[lang] and corpus.held_out[lang] for lang in LANGUAGES)


def test_a_missing_reference_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--smoke"):
        read_corpus(tmp_path / "absent")


@pytest.mark.whole
def test_the_whole_recipe_in_a_tiny_run(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("rjieba")
    main(["--smoke", "--output", str(tmp_path)])
    figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert set(figures) == {"language-id", "nli", "ner", "qa", "choice", "fill-mask", "clm", "examples"}
    assert (tmp_path / "learning_curve.png").stat().st_size > 1000
    publish(tmp_path, tmp_path / "published")
    card = (tmp_path / "published" / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "{" not in card
    assert (tmp_path / "published" / "qa" / "model.safetensors.index.json").is_file()
    again = tmp_path / "again"
    main(["--smoke", "--output", str(again), "--stage", "vocabulary"])
    for name in ("vocab.json", "merges.txt"):
        assert (again / "vocabulary" / name).read_bytes() == (tmp_path / "vocabulary" / name).read_bytes()
