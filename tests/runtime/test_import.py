"""`import xlm_runtime` is quick, and loads numpy and the standard library alone."""

from __future__ import annotations

import subprocess
import sys

LIMIT_MS = 50  # over numpy's own import

CODE = """
import sys, time
import numpy
known = set(sys.modules)
started = time.perf_counter()
import xlm_runtime
elapsed = time.perf_counter() - started
from xlm_runtime import *
import xlm_runtime.cli.main
third = {name.split(".")[0] for name in set(sys.modules) - known} - set(sys.stdlib_module_names)
print(elapsed * 1000, *sorted(third))
"""


def test_import_is_quick_and_light() -> None:
    runs = [subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True) for _ in range(3)]
    times, loaded = zip(*((run.stdout.split()[0], run.stdout.split()[1:]) for run in runs), strict=True)
    assert min(map(float, times)) < LIMIT_MS
    assert set(loaded[0]) <= {"numpy", "xlm_runtime"}
