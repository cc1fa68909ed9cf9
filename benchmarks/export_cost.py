"""Time and peak memory of an export: `python -m benchmarks.export_cost [NAME …] [--layers N] [--json FILE]`.

Each export runs `xlm-export`, verification included, in a process of its own; its peak resident memory is what the
system counts for that process, pages mapped from the checkpoint's file included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.checkpoints import OFFICIAL


def measure(checkpoint: Path, bundle: Path, arguments: list[str]) -> tuple[float, float]:
    """Seconds and peak GB of one export."""
    command = [sys.executable, "-m", "xlm_export", "export", str(checkpoint), str(bundle), *arguments]
    began = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - began, usage.ru_maxrss * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", default=["xlm-mlm-tlm-xnli15-1024"], metavar="NAME", help=", ".join(OFFICIAL)
    )
    parser.add_argument("--layers", type=int, help="cut the models to this many layers")
    parser.add_argument("--json", type=Path, help="write the rows there")
    parser.add_argument("--export-arguments", default="", help="further arguments of xlm-export, in one string")
    options = parser.parse_args()
    rows = []
    for name in options.names or list(OFFICIAL):
        if name not in OFFICIAL:
            raise SystemExit(f"unknown configuration '{name}'; expected some of {', '.join(OFFICIAL)}")
        with tempfile.TemporaryDirectory() as folder:
            weights = write_in_child(Path(folder, "checkpoint"), name, options.layers) / 1e9
            seconds, peak = measure(
                Path(folder, "checkpoint"), Path(folder, "bundle"), options.export_arguments.split()
            )
        rows.append(
            {"name": name, "layers": options.layers, "weights_gb": weights, "seconds": seconds, "peak_gb": peak}
        )
    print("| configuration | weights GB | export and verify, s | peak GB | peak / weights |\n|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['name']} | {row['weights_gb']:.2f} | {row['seconds']:.1f} | {row['peak_gb']:.2f} "
            f"| {row['peak_gb'] / row['weights_gb']:.2f} |"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def write_in_child(folder: Path, name: str, layers: int | None) -> int:
    """Write the checkpoint in another process, so that its memory is free again; returns the weights' bytes."""
    code = (
        "import sys; from pathlib import Path; from benchmarks.checkpoints import write_checkpoint; "
        "print(write_checkpoint(Path(sys.argv[1]), sys.argv[2], n_layers=int(sys.argv[3]) or None))"
    )
    command = [sys.executable, "-c", code, str(folder), name, str(layers or 0)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    main()
