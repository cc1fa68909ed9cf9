"""The wheel in clean environments with numpy and onnxruntime alone: the runtime's tests pass there.

Of each Python from 3.10 on that is found, with the oldest and the newest libraries that the project declares.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.make_bundles import NAMES
from tests.sharing import make_once

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
FORBIDDEN = ("torch", "transformers", "sacremoses", "onnx", "onnxscript", "safetensors", "huggingface_hub")


def run(*command: str | Path, **environment: str) -> str:
    """Standard output of a command; its whole output where it fails."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | environment
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=variables, check=False)
    if result.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{result.stdout[-5000:]}\n{result.stderr[-5000:]}")
    return result.stdout


LIBRARIES = {
    "3.10": ("numpy==1.24.*", "onnxruntime==1.20.*"),
    "3.11": ("numpy", "onnxruntime"),
    "3.12": ("numpy==1.26.*", "onnxruntime==1.22.*"),
    "3.13": ("numpy==2.1.*", "onnxruntime==1.23.*"),
    "3.14": ("numpy", "onnxruntime"),
}
"""Python → what is installed there beside the wheel; the first row has the oldest that pyproject.toml names."""


def find_python(version: str) -> str | None:
    """A Python of this version: the one that runs the tests, one on the path, or one of pyenv's."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    others = [which] if (which := shutil.which(f"python{version}")) else []
    for python in (sys.executable, *others, *sorted(root.glob(f"versions/{version}.*/bin/python"))):
        code = "import sys, venv; print('.'.join(map(str, sys.version_info[:2])))"
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
        if found.returncode == 0 and found.stdout.strip() == version:
            return str(python)
    return None


@pytest.fixture(scope="session")
def wheel(shared_folder: Path) -> Path:
    """The project's wheel, built once for all workers."""

    def build(folder: Path) -> None:
        source = folder / "source"
        shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__"))
        run(*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source)

    (found,) = make_once(shared_folder / "wheel", build).glob("xlm_onnx-*.whl")
    return found


@pytest.mark.whole
@pytest.mark.parametrize("version", LIBRARIES)
def test_the_runtime_needs_numpy_and_an_engine_alone(
    version: str, bundles: Bundles, wheel: Path, tmp_path: Path
) -> None:
    found = find_python(version)
    if found is None:
        pytest.skip(f"no Python {version} here")
    run(found, "-m", "venv", "--without-pip", tmp_path / "clean")
    python = tmp_path / "clean" / "bin" / "python"
    run(*PIP, "--python", python, "install", f"{wheel}[cpu]", *LIBRARIES[version], "pytest", "hypothesis")
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
