"""optimum's export of a checkpoint and its dynamic int8, made in optimum's own environment (see `make optimum`).

    python -m benchmarks.optimum_export CHECKPOINT FOLDER TASK

writes FOLDER/model.onnx and FOLDER/model_quantized.onnx, the latter as ONNX Runtime's dynamic quantiser makes it with
optimum's settings for AVX512-VNNI, weights per channel.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    from optimum.exporters.onnx import main_export
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    checkpoint, folder, task = sys.argv[1:]
    main_export(checkpoint, folder, task=task, do_validation=False)
    quantizer = ORTQuantizer.from_pretrained(folder, file_name="model.onnx")
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
    # ONNX Runtime's quantiser breaks other operators than these
    settings.operators_to_quantize = ["MatMul", "Gemm"]
    large = (Path(folder) / "model.onnx_data").is_file()
    quantizer.quantize(settings, save_dir=folder, use_external_data_format=large)


if __name__ == "__main__":
    main()
