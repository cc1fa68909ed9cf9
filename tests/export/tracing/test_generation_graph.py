"""Graphs for text generation: a cache that is exact, one graph for prefill and decoding, and where there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Bundles, Checkpoints, Exported, HalfBundles
from tests.tolerances import RUNTIME_FP32
from xlm_export import export, load_checkpoint, verify
from xlm_export.verification.report import TOLERANCES
from xlm_runtime import pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.sessions import open_session

STEPS = 20


def run_step(
    session: Any, tokens: np.ndarray, past: dict[str, np.ndarray], total: int, room: int
) -> dict[str, np.ndarray]:
    """Logits (batch, vocab_size) behind the last of (batch, new) tokens, and their keys and values.

    `room` places behind the past hold large numbers, which must not show.
    """
    batch, new = tokens.shape
    mask = np.ones((batch, total + room), np.int64)
    mask[:, total - new : total - new + room] = 0
    past = {
        name: np.pad(value, ((0, 0), (0, 0), (0, room), (0, 0)), constant_values=1e4) for name, value in past.items()
    }
    return session.run(
        {
            "input_ids": tokens,
            "attention_mask": mask,
            "langs": np.ones((batch, new), np.int64),
            "position_ids": np.tile(np.arange(total - new, total), (batch, 1)),
            "logit_positions": np.arange(1, batch + 1) * new - 1,
            **past,
        }
    )


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="langs"),
        pytest.param({"n_langs": 1, "sinusoidal_embeddings": True}, id="sinusoidal", marks=pytest.mark.slow),
        pytest.param(
            {"asm": True, "asm_cutoffs": [50, 120], "tie_word_embeddings": False},
            id="adaptive",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_causal_checkpoints_get_a_verified_cache(
    options: dict[str, Any], bundles: Bundles, checkpoints: Checkpoints, exported: Exported, tmp_path: Path
) -> None:
    if options:
        checkpoint = checkpoints("XLMWithLMHeadModel", causal=True, **options)
        folder = exported(checkpoint)
    else:
        folder = bundles("text-generation")
        checkpoint = folder.parent / "checkpoints" / "text-generation"
    bundle = Bundle.load(shutil.copytree(folder, tmp_path / "bundle"))
    assert bundle.task == "text-generation"
    assert bundle.verification["status"] == "passed"
    axes = {spec.name: spec.axes for spec in (*bundle.graph().inputs, *bundle.graph().outputs)}
    assert axes["input_ids"] == axes["position_ids"] == ("batch", "sequence")
    assert axes["attention_mask"] == ("batch", "past_sequence + sequence")
    assert axes["past_key_values.1.value"] == ("batch", "n_heads", "past_sequence", "head_dim")
    assert axes["present.1.value"] == ("batch", "n_heads", "sequence", "head_dim")
    assert ("langs" in axes) == (options.get("n_langs") != 1)
    assert verify(bundle.folder, checkpoint).status == "passed"


def test_every_step_equals_torch_without_a_cache(bundles: Bundles) -> None:
    """The oracle here runs the whole sequence again for each step."""
    folder = bundles("text-generation")
    model: Any = load_checkpoint(folder.parent / "checkpoints" / "text-generation").model
    session = open_session(folder / "model.onnx")
    for batch, prompt in ((1, 1), (3, 5), (2, 64 - STEPS)):
        ids = np.random.default_rng(prompt).integers(0, 400, (batch, prompt))
        past = {name: np.zeros((batch, 4, 0, 8), np.float32) for name in session.input_names if "past" in name}
        new = ids
        for step in range(STEPS):
            got = run_step(session, new, past, ids.shape[1], room=step % 3)
            with torch.inference_mode():
                want = model(torch.from_numpy(ids), langs=torch.ones(ids.shape, dtype=torch.int64)).logits[:, -1]
            np.testing.assert_allclose(got["logits"], want.numpy(), rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
            past = {
                name: np.concatenate((value, got[name.replace("past_key_values", "present")]), axis=2)
                for name, value in past.items()
            }
            new = got["logits"].argmax(-1)[:, None]
            ids = np.concatenate((ids, new), axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(precision: str, half_bundles: HalfBundles) -> None:
    if precision == "bf16":
        pytest.importorskip("openvino", reason="ONNX Runtime has no bf16 kernels on the CPU")
    bundle = Bundle.load(half_bundles("text-generation", precision))
    assert bundle.verification["status"] == "passed"
    assert bundle.verification["provider"] == ("cpu" if precision == "fp16" else "openvino")
    errors = bundle.verification["outputs"].values()
    assert max(error["relative"] for error in errors) < TOLERANCES[precision].relative_error


@pytest.mark.slow
def test_further_outputs_are_verified_too(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMWithLMHeadModel", causal=True, max_position_embeddings=12)
    options = {"hidden_states": True, "attentions": True, "inputs": ("token_type_ids",)}
    bundle = export(checkpoint, tmp_path / "bundle", **options)
    compared = {name: error["compared"] for name, error in bundle.verification["outputs"].items()}
    assert compared["attentions.1"] > 0
    assert compared["hidden_states.2"] > 0
    assert verify(tmp_path / "bundle", checkpoint).status == "passed"


def test_a_wrong_cache_fails(bundles: Bundles, checkpoints: Checkpoints, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-generation"), tmp_path / "bundle"))
    report = verify(folder, checkpoints("XLMWithLMHeadModel", seed=100, causal=True))
    assert any(failure.startswith("present.0.key: relative error") for failure in report.failures)


def test_bundles_whose_past_comes_back_are_refused(bundles: Bundles, tmp_path: Path) -> None:
    checkpoint = bundles("text-generation").parent / "checkpoints" / "text-generation"
    shutil.copytree(bundles("text-generation"), tmp_path / "bundle")
    path = tmp_path / "bundle" / "bundle.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    for spec in contents["graphs"][0]["outputs"]:
        if spec["name"].startswith("present."):
            spec["axes"][2] = "past_sequence + sequence"
    path.write_text(json.dumps(contents), encoding="utf-8")
    for read in (lambda folder: pipeline("text-generation", folder), lambda folder: verify(folder, checkpoint)):
        with pytest.raises(BundleError, match=r"those of new tokens alone\. Export it again\."):
            read(tmp_path / "bundle")


def test_bidirectional_checkpoints_have_no_cache(bundles: Bundles, tmp_path: Path) -> None:
    checkpoint = bundles("fill-mask").parent / "checkpoints" / "fill-mask"
    with pytest.raises(InputError, match=r"bidirectional .* changes the keys and values of all earlier ones"):
        export(checkpoint, tmp_path / "bundle", task="text-generation", cache=True)
    with pytest.raises(InputError, match="the task fill-mask reads each text once"):
        export(checkpoint, tmp_path / "cached", task="fill-mask", cache=True)
    assert Bundle.load(bundles("fill-mask")).task == "fill-mask", "which no task was named for"
    bundle = Bundle.load(bundles("text-generation-bidirectional"))
    assert (bundle.task, bundle.verification["status"]) == ("text-generation", "passed")
    names = [spec.name for spec in bundle.graph().inputs]
    assert names == ["input_ids", "attention_mask", "langs", "logit_positions"]


def test_causal_checkpoints_without_a_cache_on_request(checkpoints: Checkpoints, exported: Exported) -> None:
    bundle = Bundle.load(exported(checkpoints("XLMWithLMHeadModel", causal=True), cache=False))
    assert (bundle.task, bundle.verification["status"]) == ("text-generation", "passed")
    assert [spec.name for spec in bundle.graph().outputs] == ["logits"]
