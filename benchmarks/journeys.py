"""How many files a reader has to follow: `python -m benchmarks.journeys`.

Four journeys, each run once in a process of its own with all caches empty: a text to its label, a prompt to a
generation, a folder to an opened pipeline, a checkpoint to a bundle (with and without its verification). A tracer
notes the file of each call of a function of this project on the calling thread, the bodies of modules and classes
aside. A change of file is a call whose file is not that of the call before it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("xlm_runtime", "xlm_export")
CHECKPOINTS = ROOT / "examples" / "checkpoints"


class Tracer:
    """The files of the project that calls pass through, in order."""

    def __init__(self) -> None:
        self.visits: list[str] = []
        self._names: dict[CodeType, str | None] = {}

    def __enter__(self) -> Tracer:
        sys.setprofile(self._note)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    @property
    def files(self) -> list[str]:
        return list(dict.fromkeys(self.visits))

    @property
    def changes(self) -> int:
        return sum(before != after for before, after in pairwise(self.visits))

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            name = self._names[code] if code in self._names else self._names.setdefault(code, _project_file(frame))
            if name is not None:
                self.visits.append(name)


def _project_file(frame: FrameType) -> str | None:
    """The file of a function of this project; None for other code, and for the body of a module or class."""
    path = Path(frame.f_code.co_filename)
    is_body = frame.f_code.co_name == "<module>" or "__module__" in frame.f_locals
    if is_body or not path.is_relative_to(ROOT) or path.relative_to(ROOT).parts[0] not in PACKAGES:
        return None
    return str(path.relative_to(ROOT))


def text_to_label(bundles: Path) -> Callable[[], object]:
    from xlm_runtime import pipeline

    classify = pipeline("text-classification", bundles / "text-classification")
    return lambda: classify("Anna lives in London.")


def prompt_to_text(bundles: Path) -> Callable[[], object]:
    from xlm_runtime import GenerationOptions, pipeline

    generate = pipeline("text-generation", bundles / "text-generation")
    return lambda: generate("For a long time", GenerationOptions(max_new_tokens=4))


def folder_to_pipeline(bundles: Path) -> Callable[[], object]:
    from xlm_runtime import pipeline

    return lambda: pipeline("text-classification", bundles / "text-classification")


def checkpoint_to_bundle(bundles: Path, verify: bool = False) -> Callable[[], object]:
    from xlm_export import export

    target = bundles / ("verified" if verify else "exported")
    return lambda: export(CHECKPOINTS / "language-id", target, verify=verify)


def checkpoint_to_verified_bundle(bundles: Path) -> Callable[[], object]:
    return checkpoint_to_bundle(bundles, verify=True)


JOURNEYS: dict[str, Callable[[Path], Callable[[], object]]] = {
    "text to label": text_to_label,
    "prompt to generation": prompt_to_text,
    "folder to pipeline": folder_to_pipeline,
    "checkpoint to bundle": checkpoint_to_bundle,
    "checkpoint to verified bundle": checkpoint_to_verified_bundle,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Files and changes of file of four journeys through the code.")
    parser.add_argument("--files", action="store_true", help="also list the files of each")
    parser.add_argument("--journey", help=argparse.SUPPRESS)
    parser.add_argument("--bundles", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.journey:
        travel = JOURNEYS[options.journey](options.bundles)
        with Tracer() as tracer:
            travel()
        print(json.dumps({"files": tracer.files, "changes": tracer.changes}))
        return 0
    from xlm_export import export

    with tempfile.TemporaryDirectory() as scratch:
        for task, checkpoint in (("text-classification", "language-id"), ("text-generation", "clm")):
            export(CHECKPOINTS / checkpoint, Path(scratch, task), verify=False)
        print(f"{'journey':<32}{'files':>6}{'changes of file':>17}")
        for name in JOURNEYS:
            command = [sys.executable, "-m", "benchmarks.journeys", "--journey", name, "--bundles", scratch]
            result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            found = json.loads(result.stdout.splitlines()[-1])
            print(f"{name:<32}{len(found['files']):>6}{found['changes']:>17}")
            if options.files:
                print("\n".join(f"    {file}" for file in found["files"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
