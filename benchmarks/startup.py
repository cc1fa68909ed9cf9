"""What starting costs: `python -m benchmarks.startup [--name NAME] [--layers N] [--json FILE]`.

Import: `import xlm_runtime` beside `import numpy`, each in fresh processes, interleaved. Opening: a pipeline (session,
tokenizer, hashes of every file) beside the engine's bare session on the same graph, each in fresh processes,
interleaved, the file in the system's cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.checkpoints import OFFICIAL
from benchmarks.export_cost import measure, write_in_child

CLOCK = "import sys, time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"
IMPORTS = {
    "import numpy": "import numpy",
    "import xlm_runtime": "import xlm_runtime, numpy",
    "from xlm_runtime import pipeline, XLMTokenizer": "from xlm_runtime import pipeline, XLMTokenizer",
}
OPENINGS = {
    "onnxruntime.InferenceSession": (
        "import numpy, onnxruntime as o; began = time.perf_counter(); s = o.SessionOptions(); "
        "s.intra_op_num_threads = 2; o.InferenceSession(sys.argv[1] + '/model.onnx', s)"
    ),
    "pipeline": (
        "import numpy, onnxruntime; from xlm_runtime import pipeline; import xlm_runtime.tokenization; "
        "began = time.perf_counter(); answer = pipeline('fill-mask', model=sys.argv[1], threads=2)"
    ),
    "pipeline and first answer": (
        "import numpy, onnxruntime; from xlm_runtime import pipeline; import xlm_runtime.tokenization; "
        "began = time.perf_counter(); pipeline('fill-mask', model=sys.argv[1], threads=2)('Paris is the <mask>.')"
    ),
}


def medians(codes: dict[str, str], rounds: int, *arguments: str) -> dict[str, float]:
    """Median ms of each code, in a fresh process each time, round after round."""
    times: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(rounds):
        for name, code in codes.items():
            command = [sys.executable, "-c", CLOCK.format(code), *arguments]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            times[name].append(float(output) * 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", choices=OFFICIAL, default="xlm-mlm-tlm-xnli15-1024")
    parser.add_argument("--layers", type=int, help="cut the model to this many layers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = medians(IMPORTS, 3 * options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        write_in_child(Path(folder, "checkpoint"), options.name, options.layers)
        measure(Path(folder, "checkpoint"), Path(folder, "bundle"), ["--no-verify"])
        rows |= medians(OPENINGS, options.rounds, str(Path(folder, "bundle")))
    print("| what | ms |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value:.1f} |")
    print(f"\n{options.name}, {options.layers or OFFICIAL[options.name][2]} layers; medians of fresh processes.")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
