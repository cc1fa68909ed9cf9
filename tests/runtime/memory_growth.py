"""Resident memory that calls of ever new shapes add, measured in a process that holds the runtime alone.

In the process of the tests torch, the other tests and their threads add megabytes of their own while a session is
measured. `python tests/runtime/memory_growth.py GRAPH LONGEST` prints the bytes that 950 calls of up to 8 x LONGEST
tokens add once 50 have been made, and those that are left after one call of 128 x LONGEST.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

from xlm_runtime.sessions import open_session

STATM = Path("/proc/self/statm")


def memory_growth(graph: Path, longest: int) -> tuple[int, int]:
    """Bytes that the calls add and bytes left after a large one, as a fresh process measures them."""
    command = [sys.executable, __file__, str(graph), str(longest)]
    calls, large = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return calls, large


def resident_bytes() -> int:
    return int(STATM.read_text(encoding="ascii").split()[1]) * 4096


def main(graph: Path, longest: int) -> None:
    rng = random.Random(0)
    session = open_session(graph)

    def call(rows: int, length: int) -> None:
        ids = np.full((rows, length), 20, np.int64)
        session.run({"input_ids": ids, "attention_mask": np.ones_like(ids), "langs": np.zeros_like(ids)})

    shapes = [(rng.randint(1, 8), rng.randint(1, longest)) for _ in range(1000)]
    call(8, longest)  # the largest first: what it takes is kept
    for shape in shapes[:50]:
        call(*shape)
    before = resident_bytes()
    for shape in shapes[50:]:
        call(*shape)
    calls = resident_bytes() - before
    call(128, longest)
    print(json.dumps([calls, resident_bytes() - before]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
