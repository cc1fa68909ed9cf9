"""What an import loads decides how long it takes; `benchmarks/startup.py` measures that."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Modules of the standard library and their parts, beside those that numpy loads. `import xlm_runtime` loads none, the
# command line before it knows its command 11, the whole interface and all commands 36.
LIMITS = {
    "import xlm_runtime": 0,
    "from xlm_runtime import pipeline": 48,
    "import xlm_runtime.cli.main": 16,
    "from xlm_runtime import *\nimport xlm_runtime.cli.tasks": 60,
}
# each costs milliseconds, and no command needs it before it runs
HEAVY = {"asyncio", "ctypes.util", "http", "multiprocessing", "ssl", "subprocess", "unittest", "urllib.request", "xml"}

CODE = """
import sys
import importlib, numpy, platform, typing  # numpy loads the others, too, in some versions
known = set(sys.modules)
{}
print(*sorted(set(sys.modules) - known))
"""


def loaded(code: str) -> list[str]:
    """Modules that the code loads in a new process, beside numpy and those that numpy loads."""
    command = [sys.executable, "-c", CODE.format(code)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("code", LIMITS, ids=["the package", "pipeline", "the command line", "everything"])
def test_an_import_is_light(code: str) -> None:
    names = [name for name in loaded(code) if name.split(".")[0] not in ("numpy", "xlm_runtime")]
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names), "packages beside numpy"
    if sys.version_info[:2] == (3, 11):  # what a module of the standard library loads differs from version to version
        assert len(names) <= LIMITS[code], names
    assert not HEAVY & set(names)


def test_a_pipeline_loads_its_task_alone() -> None:
    names = loaded("from xlm_runtime.pipelines import PIPELINES\nPIPELINES['text-classification'].load()")
    assert "xlm_runtime.pipelines.text_classification" in names
    others = ("pipelines.fill_mask", "pipelines.text_generation", "generation.search", "question_answering.beam")
    assert not {f"xlm_runtime.{other}" for other in others} & {*names}


def test_the_package_alone_loads_nothing_of_itself() -> None:
    assert loaded("import xlm_runtime") == ["xlm_runtime"]
