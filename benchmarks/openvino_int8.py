"""OpenVINO's static int8 by NNCF: `python -m benchmarks.openvino_int8 MODEL.onnx CHECKPOINT FOLDER`.

NNCF's default settings for transformers, calibrated on seeded ids of the lengths that the workloads have, since the
weights are seeded as well.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.workloads import Workload, mixed
from xlm_runtime.model.batching import pad_rows

SAMPLES = 16  # batches of 8 sequences


def main() -> None:
    import nncf
    import openvino

    graph, checkpoint, folder = sys.argv[1:]
    config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
    model = openvino.Core().read_model(graph)
    names = [port.get_any_name() for port in model.inputs]
    task = "fill-mask" if "logit_positions" in names else "text-classification"
    workload = Workload("calibration", "", mixed, task=task)
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(SAMPLES):
        rows = workload.draw(rng, config.get("vocab_size") or config["n_words"], config["n_langs"])[0]
        arrays: dict[str, np.ndarray] = dict(pad_rows(rows, 2))
        longest = arrays["input_ids"].shape[1]
        arrays["logit_positions"] = np.array([i * longest + (row.mask or 0) for i, row in enumerate(rows)], np.int64)
        samples.append({name: arrays[name] for name in names})
    quantized = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=SAMPLES)
    openvino.save_model(quantized, Path(folder) / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
