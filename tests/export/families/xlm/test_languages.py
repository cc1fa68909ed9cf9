"""-1 in `langs`, and languages that are part of the weights, against transformers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from tests.parity import Case, assert_close, make_case
from xlm_export.families.xlm.languages import fix_language

HEADS = ["XLMModel", "XLMForTokenClassification", "XLMWithLMHeadModel"]
OUTPUTS = {"XLMModel": "last_hidden_state"}


def outputs(head: str, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.inference_mode():
        value: torch.Tensor = getattr(model(**inputs), OUTPUTS.get(head, "logits"))
    return value


def case_with_languages(head: str, seed: int) -> Case:
    case = make_case(head, seed, n_langs=3, use_lang_emb=True, asm=False)
    case.inputs.pop("langs", None)
    return case


def same_at_real_tokens(case: Case, ours: torch.Tensor, theirs: torch.Tensor, what: str) -> None:
    mask = case.inputs["attention_mask"] == 1
    assert_close(ours[mask], theirs[mask], what)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("head", HEADS)
def test_minus_one_is_no_language(head: str, seed: int) -> None:
    case = case_with_languages(head, seed)
    shape = case.inputs["attention_mask"].shape
    none = torch.full(shape, -1)
    same_at_real_tokens(
        case, outputs(head, case.ours, {**case.inputs, "langs": none}), outputs(head, case.theirs, case.inputs), "none"
    )
    # each token's own, -1 among them: transformers has a fourth language there, whose embedding is zero
    langs = torch.randint(-1, 3, shape)
    body = getattr(case.theirs, "transformer", case.theirs)
    weight = torch.cat((body.lang_embeddings.weight.detach(), torch.zeros(1, case.config.emb_dim)))
    body.lang_embeddings = torch.nn.Embedding.from_pretrained(weight)
    theirs = outputs(head, case.theirs, {**case.inputs, "langs": langs.remainder(4)})
    same_at_real_tokens(case, outputs(head, case.ours, {**case.inputs, "langs": langs}), theirs, "mixed")


@pytest.mark.parametrize("number", [None, 0, 2])
@pytest.mark.parametrize("head", HEADS)
def test_a_language_in_the_weights(head: str, number: int | None) -> None:
    case = case_with_languages(head, 5)
    langs = {} if number is None else {"langs": torch.full(case.inputs["attention_mask"].shape, number)}
    fixed = copy.deepcopy(case.ours)
    fix_language(fixed.body, number)
    assert not fixed.config.uses_langs
    theirs = outputs(head, case.theirs, {**case.inputs, **langs})
    same_at_real_tokens(case, outputs(head, fixed, case.inputs), theirs, f"language {number}")
    fix_language(fixed.body, 1)
    same_at_real_tokens(case, outputs(head, fixed, case.inputs), theirs, "a second time")
