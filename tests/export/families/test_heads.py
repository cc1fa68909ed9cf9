"""Every family's model classes against transformers', over random configurations and inputs: 8 kinds of test."""

from __future__ import annotations

import pytest
import torch

from tests.parity import Case, assert_close, assert_same_gradients, make_case, seeds

SEEDS = pytest.mark.parametrize(("prefix", "seed"), seeds(xlm=32, others=3))


def flag(case: Case) -> dict[str, bool]:
    return {"output_attentions": case.rng.random() < 0.5, "output_hidden_states": case.rng.random() < 0.5}


def assert_same_outputs(case: Case, ours: object, theirs: object, names: tuple[str, ...]) -> None:
    for name in (*names, "hidden_states", "attentions"):
        our_value, their_value = getattr(ours, name), getattr(theirs, name)
        assert (our_value is None) == (their_value is None), name
        if isinstance(our_value, tuple):
            assert len(our_value) == len(their_value)
            for i, (a, b) in enumerate(zip(our_value, their_value, strict=False)):
                assert_close(a, b, f"{name}[{i}]")
        elif our_value is not None:
            assert_close(our_value, their_value, name)


@SEEDS
def test_model(prefix: str, seed: int) -> None:
    case = make_case(prefix + "Model", seed)
    if case.config.causal:
        # transformers' causal rows let padding queries look at padding; compare what real tokens see
        for i in range(len(case.lengths)):
            row = case.row(i)
            batch = case.ours(**case.inputs).last_hidden_state[i : i + 1, : case.lengths[i]]
            assert_close(batch, case.theirs(**row).last_hidden_state, f"row {i}")
        return
    flags = flag(case)
    assert_same_outputs(
        case, case.ours(**case.inputs, **flags), case.theirs(**case.inputs, **flags), ("last_hidden_state",)
    )


@SEEDS
def test_language_model(prefix: str, seed: int) -> None:
    case = make_case(prefix + "WithLMHeadModel", seed)
    mask = case.inputs["attention_mask"]
    labels = torch.randint(0, case.config.vocab_size, mask.shape)
    labels[torch.rand(mask.shape) < 0.3] = -100
    labels[mask == 0] = -100
    labels[0, 0] = 7
    flags = flag(case) if not case.config.causal else {}
    ours = case.ours(**case.inputs, labels=labels, **flags)
    theirs = case.theirs(**case.inputs, labels=labels, **flags)
    if case.config.causal:
        assert_close(ours.logits[mask == 1], theirs.logits[mask == 1], "logits")
    else:
        assert_same_outputs(case, ours, theirs, ("logits",))
    assert_same_gradients(case, ours.loss, theirs.loss)


@SEEDS
def test_sequence_classification(prefix: str, seed: int) -> None:
    case = make_case(prefix + "ForSequenceClassification", seed, padded=seed % 2 == 0)
    config = case.config
    batch = len(case.lengths)
    kind = case.rng.choice(["one", "many", "number"])
    if kind == "one" and config.num_labels > 1:
        labels = torch.randint(0, config.num_labels, (batch,))
        labels[1:][torch.rand(batch - 1) < 0.3] = -100
    elif kind == "many" and config.num_labels > 1:
        labels = torch.randint(0, 2, (batch, config.num_labels)).float()
    else:
        config.problem_type = case.theirs.config.problem_type = "regression"
        labels = torch.randn(batch, config.num_labels) if config.num_labels > 1 else torch.randn(batch)
    ours = case.ours(**case.inputs, labels=labels)
    for i in range(batch):
        assert_close(ours.logits[i : i + 1], case.theirs(**case.row(i)).logits, f"logits of row {i}")
    reads_padding = config.summary_type != "first" and min(case.lengths) < case.inputs["attention_mask"].shape[1]
    if not reads_padding:
        theirs = case.theirs(**case.inputs, labels=labels)
        assert_same_gradients(case, ours.loss, theirs.loss)


@SEEDS
def test_multiple_choice(prefix: str, seed: int) -> None:
    case = make_case(prefix + "ForMultipleChoice", seed, padded=seed % 2 == 0)
    choices = len(case.lengths)
    inputs = {name: value.unsqueeze(0).repeat_interleave(2, 0) for name, value in case.inputs.items()}
    labels = torch.randint(0, choices, (2,))
    ours = case.ours(**inputs, labels=labels)
    assert ours.logits.shape == (2, choices)
    for i in range(choices):
        row = {name: value.unsqueeze(0) for name, value in case.row(i).items()}
        assert_close(ours.logits[:1, i : i + 1], case.theirs(**row).logits, f"choice {i}")
    padded = min(case.lengths) < case.inputs["attention_mask"].shape[1]
    if case.config.summary_type == "first" or not padded:
        assert_same_gradients(case, ours.loss, case.theirs(**inputs, labels=labels).loss)


@SEEDS
def test_token_classification(prefix: str, seed: int) -> None:
    case = make_case(prefix + "ForTokenClassification", seed)
    mask = case.inputs["attention_mask"]
    labels = torch.randint(0, case.config.num_labels, mask.shape)
    labels[mask == 0] = -100
    ours = case.ours(**case.inputs, labels=labels)
    theirs = case.theirs(**case.inputs, labels=labels)
    assert_close(ours.logits[mask == 1], theirs.logits[mask == 1], "logits")
    assert_same_gradients(case, ours.loss, theirs.loss)


@SEEDS
def test_question_answering_simple(prefix: str, seed: int) -> None:
    case = make_case(prefix + "ForQuestionAnsweringSimple", seed, padded=False, id2label={0: "a", 1: "b"})
    batch, sequence = case.inputs["attention_mask"].shape
    positions = {
        "start_positions": torch.randint(0, sequence + 3, (batch,)),
        "end_positions": torch.randint(0, sequence + 3, (batch, 1)),
    }
    positions["start_positions"][0], positions["end_positions"][0] = 0, 1
    ours = case.ours(**case.inputs, **positions)
    theirs = case.theirs(**case.inputs, **positions)
    assert_same_outputs(case, ours, theirs, ("start_logits", "end_logits"))
    assert_same_gradients(case, ours.loss, theirs.loss)


def squad_inputs(case: Case) -> dict[str, torch.Tensor]:
    """`p_mask` and `cls_index`, each sometimes absent."""
    batch, sequence = case.inputs["attention_mask"].shape
    extra: dict[str, torch.Tensor] = {}
    if case.rng.random() < 0.7:
        extra["p_mask"] = (torch.rand(batch, sequence) < 0.3).float()
        extra["p_mask"][:, :4] = 0  # at least four tokens can be an answer, so that no two candidates tie at zero
    if case.rng.random() < 0.7:
        extra["cls_index"] = torch.tensor([case.rng.randrange(length) for length in case.lengths])
    return extra


BEAM = ("start_top_log_probs", "start_top_index", "end_top_log_probs", "end_top_index", "cls_logits")


@SEEDS
def test_question_answering(prefix: str, seed: int) -> None:
    case = make_case(prefix + "ForQuestionAnswering", seed, min_length=5)
    extra = squad_inputs(case)
    ours = case.ours(**case.inputs, **extra)
    for i, length in enumerate(case.lengths):
        row_extra = {name: value[i : i + 1] for name, value in extra.items()}
        if "p_mask" in row_extra:
            row_extra["p_mask"] = row_extra["p_mask"][:, :length]
        theirs = case.theirs(**case.row(i), **row_extra)
        for name in BEAM:
            assert_close(getattr(ours, name)[i : i + 1], getattr(theirs, name), f"{name} of row {i}")


@SEEDS
def test_question_answering_loss(prefix: str, seed: int) -> None:
    case = make_case(prefix + "ForQuestionAnswering", seed, padded=False, min_length=5)
    extra = squad_inputs(case)
    batch = len(case.lengths)
    extra["start_positions"] = torch.randint(0, 4, (batch,))
    extra["end_positions"] = torch.randint(0, 4, (batch,))
    if case.rng.random() < 0.7:
        extra["is_impossible"] = torch.randint(0, 2, (batch,)).float()
    assert_same_gradients(case, case.ours(**case.inputs, **extra).loss, case.theirs(**case.inputs, **extra).loss)
