"""Words for masks."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.reference import Reference, probabilities
from tests.runtime.texts import TOO_LONG
from tests.tolerances import RUNTIME_FP32
from xlm_runtime import InputError, pipeline

MASKED = [
    "The <mask> stands at the edge.",
    "Der alte <special1> steht.",
    "Старый <mask> стоит на краю маленького города.",
    "<mask>",
]
LANGS = ["en", "de", "ru", "fr"]


@pytest.fixture(scope="module")
def pipe(bundles: Bundles):
    return pipeline("fill-mask", bundles("fill-mask"))


@pytest.fixture(scope="module")
def reference(bundles: Bundles) -> Reference:
    return Reference(bundles("fill-mask"))


def expected(reference: Reference, text: str, lang: str | None) -> tuple[list[int], list[int], np.ndarray]:
    """Ids, positions of the masks, and (masks, vocab_size) probabilities, from logits at every position."""
    ids = reference.ids(text, lang=lang)
    positions = [i for i, token in enumerate(ids) if token == 5]
    everywhere = np.arange(len(ids), dtype=np.int64)
    return ids, positions, probabilities(reference.run(ids, lang, logit_positions=everywhere)[positions])


@pytest.mark.parametrize("langs", [None, LANGS])
def test_the_best_tokens_in_order(pipe, reference: Reference, langs) -> None:
    for i, (text, filled) in enumerate(zip(MASKED, pipe(MASKED, lang=langs, top_k=4), strict=True)):
        ids, (position,), (scores,) = expected(reference, text, langs[i] if langs else None)
        best = np.argsort(-scores)[:4]
        assert [item["token"] for item in filled] == best.tolist()
        np.testing.assert_allclose([item["score"] for item in filled], scores[best], atol=RUNTIME_FP32)
        for item in filled:
            assert item["token_str"] == reference.tokenizer.decode([item["token"]])
            whole = [*ids[:position], item["token"], *ids[position + 1 :]]
            assert item["sequence"] == reference.tokenizer.decode(whole, skip_special_tokens=True)


def test_several_masks_have_a_list_each(pipe, reference: Reference) -> None:
    text = "The <mask> stands at the <mask> of the <special1> town."
    filled = pipe(text, top_k=3)
    _, positions, scores = expected(reference, text, None)
    assert len(filled) == len(positions) == 3
    for items, row in zip(filled, scores, strict=True):
        assert [item["token"] for item in items] == np.argsort(-row)[:3].tolist()
        assert all(item["sequence"].count("<special1>") == 2 for item in items)


def test_masks_of_different_texts_do_not_mix(pipe) -> None:
    texts = [*MASKED, "The <mask> and the <mask>."]
    together = pipe(texts, top_k=2)
    for text, filled in zip(texts, together, strict=True):
        alone = pipe(text, top_k=2)
        rows = [alone, filled] if isinstance(alone[0], dict) else [list(chain(*alone)), list(chain(*filled))]
        for one, other in zip(*rows, strict=True):
            assert one["token"] == other["token"]
            assert one["score"] == pytest.approx(other["score"], abs=RUNTIME_FP32)


def test_targets(pipe, reference: Reference) -> None:
    filled = pipe(MASKED[0], targets=["town", "edge</w>", "old", "town"])
    _, _, (scores,) = expected(reference, MASKED[0], None)
    ids = reference.tokenizer.convert_tokens_to_ids(["town</w>", "edge</w>", "old</w>"])
    assert [item["token"] for item in filled] == sorted(ids, key=lambda i: -scores[i])
    assert len(pipe(MASKED[0], targets="town")) == 1
    with pytest.raises(InputError, match="target 'townhall' is not one token of the vocabulary, it is: t ow n h all"):
        pipe(MASKED[0], targets=["townhall"])
    with pytest.raises(InputError, match="targets is empty"):
        pipe(MASKED[0], targets=[])


def test_a_text_needs_a_mask(pipe) -> None:
    with pytest.raises(InputError, match="No mask in the text 'The old town'; write <special1> or <mask>"):
        pipe("The old town")
    with pytest.raises(InputError, match="truncation may have cut it off"):
        pipe(TOO_LONG + "<mask>", truncation=True)


def test_top_k(pipe, reference: Reference) -> None:
    assert len(pipe(MASKED[0], top_k=10**6)) == reference.config.vocab_size
    with pytest.raises(InputError, match="top_k is 0"):
        pipe(MASKED[0], top_k=0)
