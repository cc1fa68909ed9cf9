"""Packed graphs for CUDA, computed in numpy: what a batch is filled up with changes no answer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.cuda_operators import NumpySession
from tests.tolerances import RUNTIME_FP32
from xlm_export.optimization import optimize
from xlm_runtime.filled_sizes import Buckets
from xlm_runtime.model.opening import padded_session


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("name", ["fill-mask", "multiple-choice", "question-answering"])
def test_the_same_answers(name: str, bundles: Bundles, tmp_path: Path) -> None:
    folder = shutil.copytree(bundles(f"{name}-packed"), tmp_path / name)
    made = optimize(folder, "onnxruntime-cuda")
    graph = NumpySession(folder / made.graph.file)
    plain, filled = (padded_session(graph, made.bundle, made.graph, *filling) for filling in ((), (Buckets(),)))
    rng = np.random.default_rng(0)
    for lengths in ([16], [5], [7, 2, 1], [3] * 6):
        longest = max(lengths)
        mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(np.int64)
        inputs = {
            "input_ids": rng.integers(14, made.bundle.config.vocab_size, mask.shape),
            "attention_mask": mask,
            "langs": rng.integers(0, made.bundle.config.n_langs, mask.shape),
            "logit_positions": np.flatnonzero(mask)[::2],
            "p_mask": (np.arange(longest) > 0) * rng.integers(0, 2, mask.shape).astype(np.float32),
            "cls_index": np.zeros(len(lengths), np.int64),
        }
        if name == "multiple-choice":
            inputs |= {key: inputs[key][:, None] for key in ("input_ids", "attention_mask", "langs")}
        inputs = {key: inputs[key] for key in plain.input_names}
        expected = plain.run(inputs)
        for key, value in filled.run(inputs).items():
            if not key.endswith("index") and not key.startswith("end"):  # of ties either one is first
                np.testing.assert_allclose(value, expected[key], rtol=RUNTIME_FP32, atol=RUNTIME_FP32, err_msg=key)
