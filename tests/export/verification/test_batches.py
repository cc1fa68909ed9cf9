"""The maker of batches: every graph's inputs, in its shapes, with padding and without."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import Bundles
from xlm_export.verification.batches import CHOICES, ROWS, SENTENCES, BatchMaker
from xlm_runtime.bundle import Bundle
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.model.languages import NO_LANG, LanguageNumbers
from xlm_runtime.tasks import find_task
from xlm_runtime.tokenization import XLMTokenizer

NAMES = ["fill-mask", "multiple-choice", "question-answering", "text-classification", "text-generation-bidirectional"]


@pytest.mark.parametrize("name", [*NAMES, "fill-mask-packed", "question-answering-packed"])
def test_inputs_of_a_bundle(name: str, bundles: Bundles) -> None:
    bundle = Bundle.load(bundles(name))
    rows = find_task(bundle.architecture, bundle.task).rows
    maker = BatchMaker.of(bundle, bundle.graph())
    for case in maker.seeded(mixed=True):
        mask = case.inputs["attention_mask"]
        assert mask.ndim == len(rows) + 1
        assert all(value.flags["C_CONTIGUOUS"] for value in case.inputs.values())
        assert {value.shape[0] for key, value in case.inputs.items() if key != "logit_positions"} == {len(mask)}
        if "logit_positions" in case.inputs:
            assert mask.reshape(-1)[case.inputs["logit_positions"]].all(), "of real tokens alone"
        if "p_mask" in case.inputs:
            np.testing.assert_array_equal(case.inputs["p_mask"], 1 - mask)
        if rows == ("batch", "num_choices"):
            ids = case.inputs["input_ids"]
            assert ids.shape[1] == CHOICES
            np.testing.assert_array_equal(ids[:, 1], ids[::-1, 0])


def test_texts(bundles: Bundles) -> None:
    bundle = Bundle.load(bundles("text-classification"))
    tokenizer = XLMTokenizer.from_pretrained(bundle.folder)
    maker = BatchMaker.of(bundle, bundle.graph())
    languages = LanguageNumbers.of(bundle, tokenizer)
    feeds = maker.texts(tokenizer, languages, SENTENCES)
    assert [len(feed["input_ids"]) for feed in feeds] == [ROWS, ROWS]
    for feed, texts in zip(feeds, (SENTENCES[:ROWS], SENTENCES[ROWS:]), strict=True):
        for ids, mask, text in zip(feed["input_ids"], feed["attention_mask"], texts, strict=True):
            longest = bundle.config.max_position_embeddings
            assert ids[mask != 0].tolist() == tokenizer(text, truncation=True, max_length=longest)["input_ids"]
    (feed,) = maker.texts(tokenizer, languages, ["Im Winter", "In winter"], ["de", None])
    assert (feed["langs"][0] == (tokenizer.lang2id or {})["de"]).all()
    assert (feed["langs"][1] == NO_LANG).all()
    with pytest.raises(InputError, match="Unknown lang 'xx'"):
        maker.texts(tokenizer, languages, ["Im Winter"], ["xx"])
    everything, without_langs = maker.sentences(tokenizer)
    assert everything.name == f"{len(SENTENCES)} sentences"
    assert set(np.unique(everything.inputs["langs"])) == {NO_LANG, *range(bundle.config.n_langs)}
    assert (without_langs.inputs["langs"] == NO_LANG).all()
    assert len(everything.inputs["input_ids"]) == len(without_langs.inputs["input_ids"]) == len(SENTENCES)


def test_seeds() -> None:
    config = XLMConfig(vocab_size=50, emb_dim=8, n_heads=2, n_layers=1, max_position_embeddings=32)
    names = ["input_ids", "attention_mask", "position_ids", "p_mask"]

    def made(seed: int, arbitrary: bool = False) -> list[dict[str, np.ndarray]]:
        return [case.inputs for case in BatchMaker(names, config, arbitrary=arbitrary, seed=seed).seeded()]

    first, again, other = made(1), made(1), made(2)
    for left, right in zip(first, again, strict=True):
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[key], right[key]) for key in left)
    assert any(not np.array_equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, other, strict=True))
    assert all(np.array_equal(feed["position_ids"][0], np.arange(feed["position_ids"].shape[1])) for feed in first)
    drawn = made(1, arbitrary=True)
    assert any(feed["p_mask"].any(where=feed["attention_mask"] != 0) for feed in drawn), "real tokens are masked, too"


def test_embeddings() -> None:
    config = XLMConfig(vocab_size=50, emb_dim=8, n_heads=2, n_layers=1, max_position_embeddings=32)
    table = np.arange(50 * 8, dtype=np.float32).reshape(50, 8)
    rows = [np.array([3, 4]), np.array([5])]
    made = BatchMaker(["inputs_embeds", "attention_mask"], config, embed=lambda ids: table[ids]).feed(rows)
    np.testing.assert_array_equal(made["inputs_embeds"][0], table[[3, 4]])
    assert "input_ids" not in made
    drawn = BatchMaker(["inputs_embeds", "attention_mask"], config).feed(rows)["inputs_embeds"]
    assert (drawn.shape, drawn.dtype) == ((2, 2, 8), np.float32)
