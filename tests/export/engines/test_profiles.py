"""Optimisation profiles out of a graph's declared inputs, without TensorRT."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlm_export.engines.profiles import MOST_KEPT, PRESETS, custom_profile, preset_profiles
from xlm_runtime.bundle import Graph
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import InputError
from xlm_runtime.tasks import find_task, graph_inputs


def graph(architecture: str, config: XLMConfig, *, cache: bool = False, inputs: tuple[str, ...] = ()) -> Graph:
    task = find_task(architecture, "text-generation" if cache else None)
    return Graph("model.onnx", "fp16", "padded", 18, graph_inputs(task, config, inputs, cache), ())


def config(positions: int = 512) -> XLMConfig:
    return XLMConfig(
        vocab_size=1000, emb_dim=64, n_layers=2, n_heads=4, n_langs=3, causal=True, max_position_embeddings=positions
    )


def test_the_default_is_four_lengths_at_three_batches() -> None:
    made = preset_profiles("default", graph("XLMModel", config()), config())
    assert [profile.name for profile in made] == [f"{b}x{s}" for s in (32, 128, 384, 512) for b in (1, 8, 32)]
    for profile in made:
        assert list(profile.shapes) == ["input_ids", "attention_mask", "langs"]
        batch, sequence = (int(size) for size in profile.name.split("x"))
        assert set(profile.shapes.values()) == {((1, 1), (batch, sequence), (batch, sequence))}


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("default", ["1x32", "8x32", "32x32", "1x64", "8x64", "32x64"]),
        ("latency", ["1x32", "1x64"]),
        ("throughput", ["8x64", "32x64"]),
        ("long", ["1x64", "8x64"]),
    ],
)
def test_lengths_are_cut_to_the_models_positions(preset: str, names: list[str]) -> None:
    made = preset_profiles(preset, graph("XLMModel", config(64)), config(64))
    assert [profile.name for profile in made] == names


def test_a_cache_gets_prompts_and_decoding_apart() -> None:
    shapes = {
        profile.name: profile.shapes
        for profile in preset_profiles("default", graph("XLMWithLMHeadModel", config(), cache=True), config())
    }
    assert [name for name in shapes if "decoding" in name] == ["1x1, decoding", "8x1, decoding", "32x1, decoding"]
    prompt, decoding = shapes["8x128"], shapes["8x1, decoding"]
    assert prompt["input_ids"] == ((1, 1), (8, 128), (8, 128))
    assert prompt["past_key_values.1.value"] == ((1, 4, 0, 16), (8, 4, 0, 16), (8, 4, 512, 16))
    assert prompt["attention_mask"] == ((1, 1), (8, 128), (8, 640))
    assert prompt["logit_positions"] == ((1,), (8,), (MOST_KEPT,))
    assert decoding["input_ids"] == ((1, 1), (8, 1), (8, 1))
    assert decoding["past_key_values.0.key"] == ((1, 4, 0, 16), (8, 4, 256, 16), (8, 4, 512, 16))
    assert decoding["attention_mask"] == ((1, 1), (8, 257), (8, 513))
    assert decoding["logit_positions"] == ((1,), (8,), (8,))


@given(
    architecture=st.sampled_from(["XLMModel", "XLMForMultipleChoice", "XLMForQuestionAnswering", "XLMWithLMHeadModel"]),
    preset=st.sampled_from(list(PRESETS)),
    positions=st.integers(1, 2048),
    cache=st.booleans(),
    inputs=st.sampled_from([(), ("position_ids", "token_type_ids"), ("inputs_embeds",)]),
)
def test_every_profile_fits_the_graph(
    architecture: str, preset: str, positions: int, cache: bool, inputs: tuple[str, ...]
) -> None:
    cache = cache and architecture == "XLMWithLMHeadModel"
    specs = graph(architecture, config(positions), cache=cache, inputs=inputs)
    made = preset_profiles(preset, specs, config(positions))
    assert len({profile.name for profile in made}) == len(made)
    for profile in made:
        assert list(profile.shapes) == [spec.name for spec in specs.inputs]
        for spec in specs.inputs:
            low, best, high = profile.shapes[spec.name]
            assert len(low) == len(best) == len(high) == len(spec.axes)
            assert all(0 <= a <= b <= c for a, b, c in zip(low, best, high, strict=True))
            for i, axis in enumerate(spec.axes):
                if axis == "sequence":
                    assert 1 <= low[i] <= high[i] <= positions
                if axis in ("emb_dim", "n_heads", "head_dim"):
                    assert low[i] == high[i] == getattr(config(), axis)


def test_profiles_of_ones_own() -> None:
    profile = custom_profile("1x1:8x128:32x384", graph("XLMModel", config()), config())
    assert profile.name == "1x1:8x128:32x384"
    assert profile.shapes["input_ids"] == ((1, 1), (8, 128), (32, 384))
    cached = graph("XLMWithLMHeadModel", config(), cache=True)
    decoding = custom_profile("1x1+0:4x1+100:4x2+511", cached, config()).shapes
    assert decoding["attention_mask"] == ((1, 1), (4, 101), (4, 513))
    assert decoding["past_key_values.0.key"] == ((1, 4, 0, 16), (4, 4, 100, 16), (4, 4, 511, 16))
    assert custom_profile("1x1:1x9:1x9", cached, config()).shapes["past_key_values.0.key"][2] == (1, 4, 512, 16)
    choices = custom_profile("1x2x8:1x4x64:2x5x64", graph("XLMForMultipleChoice", config()), config()).shapes
    assert choices["input_ids"] == ((1, 2, 8), (1, 4, 64), (2, 5, 64))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1x1:8x128", "Unknown profile '1x1:8x128'; expected min:opt:max"),
        ("small", "Unknown profile 'small'"),
        ("1x1:8x-2:8x8", "Unknown profile"),
        ("2x1:1x8:4x8", "batch 2:1:4; expected 1 or more, and min ≤ opt ≤ max"),
        ("1x9:1x8:1x9", "sequence 9:8:9"),
        ("0x1:1x8:1x9", "batch 0:1:1"),
        ("1x1:1x8:1x513", "has a sequence of 513, but the model has only 512 positions"),
        ("1x1+0:1x1+5:1x1+9", "names a past; write +PAST in all three shapes, and only for graphs with a cache"),
        ("1x2x8:1x4x64:2x5x64", "names choices"),
    ],
)
def test_refused_profiles(text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        custom_profile(text, graph("XLMModel", config()), config())


def test_refused_pasts() -> None:
    cached = graph("XLMWithLMHeadModel", config(), cache=True)
    with pytest.raises(InputError, match="has a past of 513, but the model has only 512 positions"):
        custom_profile("1x1+0:1x1+5:1x1+513", cached, config())
    with pytest.raises(InputError, match="in all three shapes"):
        custom_profile("1x1:1x1+5:1x1+6", cached, config())
    with pytest.raises(InputError, match="Unknown profiles 'huge'; expected one of default, latency, throughput, long"):
        preset_profiles("huge", cached, config())
