"""The wheel in a clean environment with numpy and onnxruntime alone: the runtime's tests pass there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.make_bundles import NAMES

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = ("torch", "transformers", "sacremoses", "onnx", "onnxscript", "safetensors", "huggingface_hub")


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command; its whole output where it fails."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=variables, check=False)
    if result.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}")
    return result.stdout


@pytest.mark.whole
def test_the_runtime_needs_numpy_and_an_engine_alone(bundles: Bundles, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__"))
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("xlm_onnx-*.whl")

    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    run(*pip, "--python", python, "install", f"{wheel}[cpu]", "pytest", "hypothesis")
    absent = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    assert run(python, "-c", absent, *FORBIDDEN).strip() == "[]"

    (folder,) = {bundles(name).parent for name in NAMES}
    tests = tmp_path / "elsewhere" / "tests"
    tests.mkdir(parents=True)
    for name in ("__init__.py", "conftest.py", "sharing.py", "tolerances.py"):
        shutil.copyfile(ROOT / "tests" / name, tests / name)
    # the tokenizer's tests read the Moses tables of sacremoses, which is not there
    shutil.copytree(ROOT / "tests" / "runtime", tests / "runtime", ignore=shutil.ignore_patterns("tokenization"))
    shutil.copyfile(ROOT / "pyproject.toml", tests.parent / "pyproject.toml")
    output = run(
        python,
        "-m",
        "pytest",
        "-m",
        "not slow and not whole",
        "--rootdir",
        tests.parent,
        tests / "runtime",
        XLM_TEST_BUNDLES=str(folder),
    )
    assert " passed" in output
    command = tmp_path / "clean" / "bin" / "xlm-runtime"
    assert "fill-mask" in run(command, "info", bundles("fill-mask"))
