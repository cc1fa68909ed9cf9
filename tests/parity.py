"""The parity helper: a random configuration and batch, our model and transformers' with the same weights."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache
from transformers.models.flaubert import modeling_flaubert

from tests.tolerances import MODEL_PARITY
from xlm_export.families.family import ExportFamily
from xlm_export.families.table import FAMILIES
from xlm_export.families.xlm.family import XLM
from xlm_export.families.xlm.modeling import XLMConfig, XLMPreTrainedModel
from xlm_runtime.flaubert_config import FlaubertConfig


@dataclass
class Case:
    """Two models with the same weights and a batch for them. `lengths[i]` tokens of row i are real."""

    rng: random.Random
    config: XLMConfig
    ours: XLMPreTrainedModel
    theirs: Any
    lengths: list[int]
    inputs: dict[str, Tensor] = field(default_factory=dict)

    def row(self, index: int) -> dict[str, Tensor]:
        """The inputs of one row alone, without padding: (1, length)."""
        return {name: value[index : index + 1, : self.lengths[index]] for name, value in self.inputs.items()}


def seeds(xlm: int, others: int, whole: int = 100) -> list[Any]:
    """(prefix of a family's classes, seed) of a test that every family has: the first ones always, and for families
    other than XLM, whose code is mostly XLM's, `whole` in `make test-whole`."""
    further = [family.runtime.prefix for family in FAMILIES.values() if family is not XLM]
    return [
        *(("XLM", seed) for seed in range(xlm)),
        *((prefix, seed) for prefix in further for seed in range(others)),
        *(pytest.param(prefix, seed, marks=pytest.mark.whole) for prefix in further for seed in range(others, whole)),
    ]


def random_config(rng: random.Random, family: ExportFamily = XLM, **options: Any) -> XLMConfig:
    """A small configuration in which every option that changes the computation is drawn."""
    n_heads = rng.choice([1, 2, 4])
    values: dict[str, Any] = {
        "vocab_size": rng.randint(30, 70),
        "emb_dim": n_heads * rng.choice([4, 6, 8]),
        "n_layers": rng.randint(1, 3),
        "n_heads": n_heads,
        "gelu_activation": rng.random() < 0.5,
        "sinusoidal_embeddings": rng.random() < 0.3,
        "causal": rng.random() < 0.3,
        "n_langs": rng.choice([1, 2, 15, 100]),
        "use_lang_emb": rng.random() < 0.7,
        "max_position_embeddings": rng.randint(20, 40),
        "layer_norm_eps": rng.choice([1e-12, 1e-5]),
        "init_std": 0.3,
        "embed_init_std": 0.5,
        "summary_type": rng.choice(["first", "last", "mean", "cls_index"]),
        "summary_use_proj": True,
        "summary_activation": rng.choice([None, "tanh"]),
        "summary_proj_to_labels": True,
        "start_n_top": rng.randint(1, 4),
        "end_n_top": rng.randint(1, 4),
        "tie_word_embeddings": rng.random() < 0.6,
        "pad_token_id": rng.choice([0, 2]),
        "id2label": {i: f"L{i}" for i in range(rng.randint(1, 5))},
    }
    if family.runtime.config is FlaubertConfig:
        values |= {"pre_norm": rng.random() < 0.7, "layerdrop": rng.choice([0.0, 0.2])}
        if values["pre_norm"]:  # nothing normalises the last sum: with large weights its rounding grows, too
            values["init_std"] = 0.1
    return family.runtime.config(**(values | options))


def make_case(name: str, seed: int, *, padded: bool = True, min_length: int = 1, **options: Any) -> Case:
    """Both models of the class `name` and a batch with every input that the configuration knows."""
    rng = random.Random(f"{name} {seed}")
    torch.manual_seed(seed)
    family = next(family for family in FAMILIES.values() if name in family.architectures)
    config = random_config(rng, family, **options)
    ours = family.models[family.head_of(name)](config).eval()
    their_config = getattr(transformers, f"{family.runtime.prefix}Config")(**config.to_dict())
    theirs = getattr(transformers, name)(their_config).eval()
    _randomise(ours)
    missing = theirs.load_state_dict(ours.state_dict(), strict=True)
    if config.tie_word_embeddings:
        theirs.tie_weights()
    if missing.missing_keys or missing.unexpected_keys:
        raise AssertionError(missing)

    batch, sequence = rng.randint(1, 4), rng.randint(max(min_length, 2), 16)
    lengths = [rng.randint(min_length, sequence) if padded else sequence for _ in range(batch)]
    ids = torch.randint(5, config.vocab_size, (batch, sequence))
    mask = (torch.arange(sequence) < torch.tensor(lengths)[:, None]).long()
    if isinstance(config, FlaubertConfig) and config.pre_norm:
        mend_pre_norm(theirs)
    case = Case(rng, config, ours, theirs, lengths, {"attention_mask": mask})
    case.inputs["input_ids"] = torch.where(mask == 1, ids, torch.tensor(config.pad_token_id))
    if rng.random() < 0.7:
        case.inputs["langs"] = torch.randint(0, config.n_langs, (batch, sequence))
    if rng.random() < 0.3:
        case.inputs["token_type_ids"] = torch.randint(0, 5, (batch, sequence))
    if rng.random() < 0.3:
        case.inputs["position_ids"] = torch.randint(0, config.max_position_embeddings, (batch, sequence))
    if rng.random() < 0.2:
        case.inputs["inputs_embeds"] = ours.word_embeddings[case.inputs.pop("input_ids")].detach()
    return case


class _CacheOfLayers(EncoderDecoderCache):
    """A cache that every layer is given whole."""

    def __getitem__(self, layer: int) -> EncoderDecoderCache:
        return self


modeling_flaubert.EncoderDecoderCache = _CacheOfLayers


def mend_pre_norm(theirs: Any) -> None:
    """Let transformers 5 run a FlauBERT with `pre_norm`: it takes `cache[layer]` of a cache that has no such thing, and
    does not tell attention that its weights are wanted."""
    for attention in theirs.base_model.attentions:
        attention.register_forward_pre_hook(
            lambda _, args, named: (args, named | {"output_attentions": True}), with_kwargs=True
        )


def _randomise(model: XLMPreTrainedModel) -> None:
    """Biases and LayerNorms start at 0 and 1, which would hide a mistake in them."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def assert_close(ours: Tensor, theirs: Tensor, what: str) -> None:
    """Equal shapes, and values within MODEL_PARITY, absolute and relative."""
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} against {tuple(theirs.shape)}"
    if not ours.dtype.is_floating_point:
        assert torch.equal(ours, theirs), what
        return
    torch.testing.assert_close(ours, theirs, rtol=MODEL_PARITY, atol=MODEL_PARITY, msg=lambda m: f"{what}: {m}")


def assert_same_gradients(case: Case, our_loss: Tensor, their_loss: Tensor) -> None:
    """Equal losses, and equal gradients of every trained weight."""
    assert_close(our_loss, their_loss, "loss")
    our_loss.backward()
    their_loss.backward()
    their_parameters = dict(case.theirs.named_parameters())
    for name, parameter in case.ours.named_parameters():
        if not parameter.requires_grad:
            continue
        theirs = their_parameters[name]
        assert (parameter.grad is None) == (theirs.grad is None), f"gradient of {name}"
        if parameter.grad is not None and theirs.grad is not None:
            assert_close(parameter.grad, theirs.grad, f"gradient of {name}")
