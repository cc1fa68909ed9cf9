"""What the reference model does beyond transformers: batch invariance, the cache, options and refusals."""

from __future__ import annotations

import pytest
import torch
from transformers.models.xlm.modeling_xlm import create_sinusoidal_embeddings

from tests.parity import assert_close, make_case
from xlm_export.families.past import PastKeyValues
from xlm_export.families.xlm.modeling import (
    XLMConfig,
    XLMForSequenceClassification,
    XLMModel,
    XLMWithLMHeadModel,
)
from xlm_export.families.xlm.modeling.heads import XLMPredLayer
from xlm_export.families.xlm.modeling.model import sinusoidal_embeddings
from xlm_runtime.errors import InputError

SMALL = {"vocab_size": 40, "emb_dim": 16, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 32}


@pytest.mark.parametrize("summary_type", ["last", "mean", "cls_index"])
def test_padding_does_not_change_a_summary_as_it_does_in_transformers(summary_type: str) -> None:
    case = make_case("XLMForSequenceClassification", 3, min_length=3, summary_type=summary_type, causal=False)
    ids = torch.tensor([[7, 8, 9, 10, 11, 12], [7, 8, 9, 2, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    alone = case.theirs(ids[1:, :3], attention_mask=mask[1:, :3]).logits
    assert_close(case.ours(ids, attention_mask=mask).logits[1:], alone, "ours, in a padded batch")
    padded = case.theirs(ids, attention_mask=mask).logits[1:]
    assert (padded - alone).abs().max() > 1e-3, "transformers reads the padding here"


def test_padding_does_not_change_the_beam_as_it_does_in_transformers() -> None:
    case = make_case("XLMForQuestionAnswering", 1, causal=False, start_n_top=2, end_n_top=2)
    ids = torch.tensor([[7, 8, 9, 10, 11, 12], [7, 8, 9, 2, 2, 2]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
    alone = case.theirs(ids[1:, :3], attention_mask=mask[1:, :3])
    ours = case.ours(ids, attention_mask=mask)
    padded = case.theirs(ids, attention_mask=mask)
    for name in ("start_top_log_probs", "cls_logits"):
        assert_close(getattr(ours, name)[1:], getattr(alone, name), name)
        assert (getattr(padded, name)[1:] - getattr(alone, name)).abs().max() > 1e-4


@pytest.mark.parametrize("dim", [16, 34, 1280])
def test_sinusoidal_positions_are_bit_exact(dim: int) -> None:
    theirs = create_sinusoidal_embeddings(512, dim, torch.empty(512, dim))
    assert torch.equal(sinusoidal_embeddings(512, dim), theirs)


@pytest.mark.parametrize("seed", range(8))
def test_cache_equals_the_whole_sequence(seed: int) -> None:
    case = make_case("XLMWithLMHeadModel", seed, causal=True)
    case.inputs.pop("position_ids", None)
    whole = case.ours(**case.inputs).logits
    sequence, step = whole.shape[1], case.rng.randint(1, 3)
    cache: PastKeyValues = case.ours.transformer.empty_cache(len(case.lengths))  # type: ignore[operator]
    for begin in range(0, sequence, step):
        part = {name: value[:, begin : begin + step] for name, value in case.inputs.items()}
        part["attention_mask"] = case.inputs["attention_mask"][:, : begin + step]
        output = case.ours(**part, cache=cache)
        cache = cache.append(output.present)
        real = part["attention_mask"][:, begin:] == 1
        assert_close(output.logits[real], whole[:, begin : begin + step][real], f"step at {begin}")
    assert cache.length == sequence


def test_cache_without_causal_is_refused() -> None:
    model = XLMModel(XLMConfig(**SMALL))
    with pytest.raises(InputError, match="causal=false"):
        model(torch.tensor([[7, 8]]), cache=model.empty_cache(1))


def test_lengths_equal_the_mask_they_describe() -> None:
    case = make_case("XLMModel", 5, causal=False)
    mask = case.inputs.pop("attention_mask")
    lengths = mask.sum(dim=1)
    assert_close(
        case.ours(**case.inputs, lengths=lengths).last_hidden_state,
        case.theirs(**case.inputs, lengths=lengths).last_hidden_state,
        "lengths",
    )
    assert_close(
        case.ours(**case.inputs).last_hidden_state,
        case.theirs(**case.inputs).last_hidden_state,
        "from padding",
    )


@pytest.mark.parametrize("keep", [1, 3, "list", "rows", "mask"])
def test_logits_to_keep(keep: int | str) -> None:
    case = make_case("XLMWithLMHeadModel", 2, padded=False, min_length=5)
    batch, sequence = case.inputs["attention_mask"].shape
    positions = {
        "list": torch.tensor([0, 2]),
        "rows": torch.randint(0, sequence, (batch, 2)),
        "mask": torch.rand(batch, sequence) < 0.5,
    }
    value = positions[keep] if isinstance(keep, str) else keep
    ours = case.ours(**case.inputs, logits_to_keep=value).logits
    assert_close(ours, case.theirs(**case.inputs, logits_to_keep=value).logits, "logits")


def test_adaptive_softmax_equals_torchs_module() -> None:
    torch.manual_seed(0)
    config = XLMConfig(**SMALL, asm=True, asm_cutoffs=[8, 20])
    layer = XLMPredLayer(config)
    hidden = torch.randn(3, 5, 16)
    labels = torch.randint(0, 40, (3, 5))
    scores = layer(hidden)
    assert_close(scores.flatten(0, 1), layer.proj.log_prob(hidden.flatten(0, 1)), "log-probabilities")
    loss = layer.loss(hidden, scores, labels)
    assert_close(loss, layer.proj(hidden.flatten(0, 1), labels.flatten()).loss, "loss")
    labels[0] = -100
    real = labels.flatten() != -100
    expected = layer.proj(hidden.flatten(0, 1)[real], labels.flatten()[real]).loss
    assert_close(layer.loss(hidden, scores, labels), expected, "loss without the ignored labels")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("causal", [False, True])
def test_fully_masked_rows_are_finite(dtype: torch.dtype, causal: bool) -> None:
    model = XLMWithLMHeadModel(XLMConfig(**SMALL, causal=causal)).eval().to(dtype)
    ids = torch.randint(5, 40, (3, 6))
    mask = torch.tensor([[0] * 6, [1] * 6, [0, 0, 1, 1, 1, 1]])
    for attentions in (False, True):
        output = model(ids, attention_mask=mask, output_attentions=attentions, output_hidden_states=True)
        assert torch.isfinite(output.logits).all()
        assert (output.hidden_states[-1][0] == 0).all()


def test_attention_paths_agree() -> None:
    for seed in range(4):
        case = make_case("XLMModel", seed)
        plain = case.ours(**case.inputs).last_hidden_state
        assert_close(plain, case.ours(**case.inputs, output_attentions=True).last_hidden_state, "last_hidden_state")


def test_training_uses_dropout_and_outputs_become_tuples() -> None:
    model = XLMForSequenceClassification(XLMConfig(**SMALL))
    ids = torch.tensor([[7, 8, 9]])
    assert not torch.equal(model(ids).logits, model(ids).logits)
    loss, logits = model.eval()(ids, labels=torch.tensor([1])).to_tuple()
    assert loss.shape == ()
    assert logits.shape == (1, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"is_encoder": False}, "is_encoder is false"),
        ({"summary_type": "attn"}, "summary_type is 'attn'"),
        ({"summary_activation": "swoosh"}, "summary_activation is 'swoosh'"),
        ({"emb_dim": 15}, "not a multiple of n_heads"),
        ({"asm": True}, "asm_cutoffs is missing"),
        ({"problem_type": "guess"}, "problem_type is 'guess'"),
        ({"n_layers": 0}, "n_layers is 0"),
    ],
)
def test_refused_configurations(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        XLMForSequenceClassification(XLMConfig(**(SMALL | options)))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "Exactly one of"),
        ({"input_ids": torch.ones(1, 3).long(), "inputs_embeds": torch.ones(1, 3, 16)}, "Exactly one of"),
        ({"input_ids": torch.ones(1, 33).long()}, "33 tokens.*32 positions"),
        (
            {"input_ids": torch.ones(1, 3).long(), "attention_mask": torch.ones(1, 4)},
            "attention_mask has shape",
        ),
        ({"input_ids": torch.ones(1, 3).long(), "langs": torch.ones(3).long()}, "langs has shape"),
        ({"input_ids": torch.ones(1, 3).long(), "lengths": torch.tensor([4])}, "lengths holds 4"),
    ],
)
def test_refused_inputs(inputs: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(InputError, match=message):
        XLMModel(XLMConfig(**SMALL))(**inputs)
