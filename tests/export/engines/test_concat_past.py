"""Past and new keys joined for TensorRT: the same answers from ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import pytest

from tests.conftest import Bundles
from tests.tolerances import RUNTIME_FP32
from xlm_export.engines.concat_past import concat_past
from xlm_runtime.bundle import Bundle
from xlm_runtime.sessions import open_session


def test_the_same_answers(bundles: Bundles, tmp_path: Path) -> None:
    bundle = Bundle.load(bundles("text-generation"))
    path = bundle.folder / bundle.graph().file
    model = onnx_ir.load(path)
    assert concat_past(model) == bundle.config.n_layers
    assert sum(node.op_type == "Slice" for node in model.graph) < sum(
        node.op_type == "Slice" for node in onnx_ir.load(path).graph
    )
    onnx_ir.save(model, tmp_path / "joined.onnx")
    apart, joined = open_session(path), open_session(tmp_path / "joined.onnx")
    assert joined.input_names == apart.input_names
    assert joined.output_names == apart.output_names
    rng = np.random.default_rng(0)
    for batch, past, new in ((1, 0, 5), (2, 7, 1), (3, 1, 4), (2, 40, 9)):
        sizes = {"batch": batch, "sequence": new, "past_sequence": past, "past_sequence + sequence": past + new,
                 "kept": batch}  # fmt: skip
        inputs = {}
        for spec in bundle.graph().inputs:
            shape = [sizes.get(axis) or getattr(bundle.config, axis, 0) for axis in spec.axes]
            if spec.dtype == "float":
                inputs[spec.name] = rng.normal(size=shape).astype(np.float32)
            else:
                highest = {"attention_mask": 2, "langs": 4, "logit_positions": batch * new, "position_ids": 60}
                inputs[spec.name] = rng.integers(0, highest.get(spec.name, 400), shape)
        want, got = apart.run(inputs), joined.run(inputs)
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=RUNTIME_FP32, atol=RUNTIME_FP32, err_msg=name)


def test_no_match_is_an_error(bundles: Bundles) -> None:
    model = onnx_ir.load(bundles("text-generation") / "model.onnx")
    concat_past(model)
    with pytest.raises(RuntimeError, match="joined 0 times and values 0 times in 2 layers"):
        concat_past(model)
