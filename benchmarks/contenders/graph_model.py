"""A padded ONNX or OpenVINO graph fed directly, as a peer's user would: the engine's defaults and nothing of ours.

options: `file`, `engine` ("onnxruntime" or "openvino"), `precision` (of OpenVINO's computation: f32 or bf16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.workloads import Row
from xlm_runtime.model.batching import pad_rows

PAD = 2
Run = Callable[[Mapping[str, np.ndarray]], np.ndarray]


class GraphModel:
    def __init__(self, names: Sequence[str], run: Run) -> None:
        self._names, self._run = tuple(names), run

    def answer(self, rows: Sequence[Row], all_logits: bool) -> np.ndarray:
        inputs: dict[str, np.ndarray] = dict(pad_rows(rows, PAD))
        inputs["token_type_ids"] = np.zeros_like(inputs["input_ids"])  # which optimum's exports ask for
        batch, longest = inputs["input_ids"].shape
        masks = np.array([row.mask for row in rows if row.mask is not None], np.int64)
        at_masks = np.arange(len(masks)) * longest + masks
        if "logit_positions" in self._names:
            inputs["logit_positions"] = np.arange(batch * longest) if all_logits else at_masks
        logits = self._run({name: inputs[name] for name in self._names})
        if len(masks) and logits.ndim == 3:
            return logits[np.arange(batch), masks]
        return logits[at_masks] if len(masks) and all_logits else logits


def open_model(options: dict[str, Any], threads: int) -> GraphModel:
    if options["engine"] == "openvino":
        return _openvino(options["file"], options["precision"], threads)
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(options["file"], settings, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return GraphModel(names, lambda inputs: session.run(None, inputs)[0])


def _openvino(file: str, precision: str, threads: int) -> GraphModel:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = core.compile_model(core.read_model(file), "CPU", settings)
    request = compiled.create_infer_request()

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        request.infer(dict(inputs), share_inputs=True)
        return np.array(request.get_output_tensor(0).data)

    return GraphModel([port.get_any_name() for port in compiled.inputs], run)
