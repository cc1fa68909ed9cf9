"""What a run needs on disk, made once and kept: seeded checkpoints, bundles, and the peers' own graphs.

Everything is made in processes of its own, so that the run's memory stays free. What cannot be made (a recipe that
this version does not have, an environment that is not there) is noted with its reason and left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.process import ROOT
from xlm_runtime.bundle import BUNDLE_FILE, Bundle, Graph

ARCHITECTURES = {
    "text-classification": "XLMForSequenceClassification",
    "fill-mask": "XLMWithLMHeadModel",
    "text-generation": "XLMWithLMHeadModel",
}
LAYOUTS = ("padded", "packed")
OPTIMIZE = ("optimize", "--target", "onnxruntime-cpu")
# what `xlm-export` makes of a bundle: each is tried on every layout, on a copy of the bundle
VARIANTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "fp32 optimized": (OPTIMIZE,),
    "int8-dynamic": (("quantize", "--recipe", "int8-dynamic"),),
    "int8-dynamic optimized": (("quantize", "--recipe", "int8-dynamic"), (*OPTIMIZE, "--precision", "int8")),
    "int8-static": (("quantize", "--recipe", "int8-static"),),
    "int8-static optimized": (("quantize", "--recipe", "int8-static"), (*OPTIMIZE, "--precision", "int8")),
    "bf16": (("quantize", "--recipe", "bf16"),),
}
CODE = "code-"
FLAVORS = ("tensorrt", "tensorrt-rtx")
# bundles of the GPU suite: those that are exported, with the options of the export, and those that a step makes of one
GPU_EXPORTS: dict[str, tuple[str, ...]] = {"plain": (), "packed": ("--layout", "packed")}
CUDA = ("optimize", "--target", "onnxruntime-cuda")
GPU_VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "optimized": ("plain", CUDA),
    "packed optimized": ("packed", CUDA),
    **{flavor: ("plain", ("engine", "--flavor", flavor)) for flavor in FLAVORS},
}
OPTIMUM = ROOT / "build" / "optimum" / "bin" / "python"


@dataclass(frozen=True)
class Size:
    """Which model: an official configuration, cut or narrowed on request."""

    name: str = "xlm-mlm-tlm-xnli15-1024"
    layers: int | None = None
    dim: int | None = None
    vocab: int | None = None

    @property
    def folder(self) -> str:
        cuts = [f"{key}{value}" for key, value in (("l", self.layers), ("d", self.dim), ("v", self.vocab)) if value]
        return "-".join([self.name, *cuts])


@dataclass
class Prepared:
    """A checkpoint and what was made of it. `missing` tells for each thing that is not there why."""

    task: str
    checkpoint: Path
    folder: Path
    bundles: dict[str, Path] = field(default_factory=dict)
    optimum: Path | None = None
    openvino_int8: Path | None = None
    missing: dict[str, str] = field(default_factory=dict)


def code_folder(folder: Path) -> Path:
    """Where bundles are kept: a folder for this version of the exporter's code; those of other versions are removed."""
    digest = hashlib.sha256()
    for package in ("xlm_export", "xlm_runtime"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.read_bytes())
    target = folder / f"{CODE}{digest.hexdigest()[:12]}"
    for other in folder.glob(f"{CODE}*"):
        if other != target:
            shutil.rmtree(other)
    return target


class PreparationError(Exception):
    """Something that no run can do without could not be made."""


def prepare_checkpoint(folder: Path, task: str, size: Size, causal: bool = False) -> Path:
    """A seeded checkpoint of a task."""
    target = folder / f"checkpoint-{task}"
    if not target.is_dir():
        code = (
            "import sys; from pathlib import Path; from benchmarks.checkpoints import write_checkpoint; "
            "numbers = [int(n) or None for n in sys.argv[4:7]]; "
            "write_checkpoint(Path(sys.argv[1]), sys.argv[2], sys.argv[3], numbers[0], dim=numbers[1], "
            "vocab_size=numbers[2], causal=sys.argv[7] == 'causal')"
        )
        cuts = [str(n or 0) for n in (size.layers, size.dim, size.vocab)]

        def write(path: Path) -> list[str]:
            arguments = [str(path), size.name, ARCHITECTURES[task], *cuts, "causal" if causal else ""]
            return [sys.executable, "-c", code, *arguments]

        reason = _make(target, write)
        if reason:
            raise PreparationError(f"The checkpoint for {task} could not be made: {reason}")
    return target


def prepare(
    folder: Path,
    task: str,
    checkpoint: Path,
    *,
    layouts: Sequence[str] = LAYOUTS,
    variants: Sequence[str],
    peers: bool,
    nncf: bool = True,
    optimum: Path,
    progress: Callable[[str], None],
) -> Prepared:
    """Bundles in layouts and recipes that `xlm-export` offers, and with `peers` also the peers' graphs.

    Args:
        layouts: which of `LAYOUTS` to export; "padded" always is.
        variants: which of `VARIANTS` to make.
        nncf: make OpenVINO's int8 graph, too, where there are peers.
        folder: takes what is made; optimum's export goes beside the checkpoint, since no code of ours makes it.

    Raises:
        PreparationError: not even the padded fp32 bundle could be made.
    """
    made = Prepared(task, checkpoint, folder)
    for layout in LAYOUTS:
        if layout != "padded" and layout not in layouts:
            continue
        progress(f"export {task}, {layout}")
        name, target = f"{layout} fp32", folder / f"bundle-{task}-{layout}"
        command = [sys.executable, "-m", "xlm_export", "export", str(checkpoint), "--task", task, "--no-verify"]
        extra = [] if layout == "padded" else ["--layout", layout]
        reason = None if target.is_dir() else _make(target, lambda path, c=[*command, *extra]: [*c, str(path)])
        if reason:
            made.missing[name] = reason
            continue
        made.bundles[name] = target
        for variant in variants:
            steps = VARIANTS[variant]
            progress(f"{variant} of {task}, {layout}")
            copy = folder / f"bundle-{task}-{layout}-{variant.replace(' ', '-')}"
            reason = _vary(target, copy, steps)
            if reason:
                made.missing[f"{layout} {variant}"] = reason
            else:
                made.bundles[f"{layout} {variant}"] = copy
    if "padded fp32" not in made.bundles:
        raise PreparationError(f"The bundle for {task} could not be made: {made.missing['padded fp32']}")
    if peers:
        progress(f"optimum's export, {task}")
        _prepare_optimum(made, checkpoint.with_name(f"optimum-{task}"), optimum)
        if nncf:
            progress(f"NNCF's int8, {task}")
            _prepare_openvino(made, folder / f"openvino-int8-{task}")
    return made


def prepare_bundle(
    target: Path, checkpoint: Path, task: str, options: Sequence[str], steps: Sequence[Sequence[str]]
) -> Path:
    """A bundle of an export with options and steps of `xlm-export` behind it; what is there is kept.

    Raises:
        PreparationError: one of them failed.
    """
    exported = target.with_name(f"{target.name}-exported")
    command = [sys.executable, "-m", "xlm_export", "export", str(checkpoint), "--task", task, "--no-verify", *options]
    reason = None
    if not target.is_dir() and not exported.is_dir():
        reason = _make(exported, lambda path: [*command, str(path)])
    reason = reason or _vary(exported, target, steps)
    if reason:
        raise PreparationError(f"The bundle '{target.name}' could not be made: {reason}")
    return target


def prepare_gpu(
    folder: Path,
    task: str,
    checkpoint: Path,
    precision: str,
    wanted: Collection[str],
    *,
    record: Callable[[dict[str, Any]], None],
    progress: Callable[[str], None],
) -> Prepared:
    """Bundles in a half precision; what could not be made is in `missing`.

    Args:
        wanted: names out of `GPU_EXPORTS` and `GPU_VARIANTS`; what those are made of is made, too.
        record: gets "prepared" with the seconds that each took; 0 where it was there.
    """
    made = Prepared(task, checkpoint, folder)

    def make(name: str, work: Callable[[Path], str | None]) -> None:
        progress(f"{task}, {precision}, {name}")
        target = folder / f"bundle-{task}-{precision}-{name.replace(' ', '-')}"
        began = time.monotonic()
        reason = None if target.is_dir() else work(target)
        record({"kind": "prepared", "what": f"{task}, {name}", "seconds": time.monotonic() - began})
        if reason:
            made.missing[f"ours {name}"] = reason
        else:
            made.bundles[name] = target

    command = [sys.executable, "-m", "xlm_export", "export", str(checkpoint), "--task", task, "--no-verify"]
    command += ["--precision", precision]
    needed = {*wanted, *(GPU_VARIANTS[name][0] for name in wanted if name in GPU_VARIANTS)}
    for name, extra in GPU_EXPORTS.items():
        if name in needed:
            make(name, lambda path, extra=extra: _make(path, lambda part: [*command, *extra, str(part)]))
    for name, (source, step) in GPU_VARIANTS.items():
        if name in needed and source in made.bundles:
            whole = [*step, "--precision", precision]
            make(name, lambda path, source=source, whole=whole: _vary(made.bundles[source], path, [whole]))
    return made


def only_graph(bundle: Bundle, graph: Graph, folder: Path) -> Path:
    """A bundle with links to the same files, whose table of contents names one graph: nothing is left to choose."""
    target = folder / bundle.folder.name / Path(graph.file).stem
    target.mkdir(parents=True, exist_ok=True)
    needed = bundle.files_of(graph)
    others = {name for item in bundle.graphs for name in bundle.files_of(item)} - set(needed)
    files = {name: digest for name, digest in bundle.files.items() if name not in others}
    for name in files:
        _link(bundle.folder / name, target / name)
    contents = replace(bundle, folder=target, graphs=(graph,), files=files).to_dict()
    (target / BUNDLE_FILE).write_text(json.dumps(contents), encoding="utf-8")
    return target


def _link(source: Path, target: Path) -> None:
    """A hard link, since engines refuse external data behind a symbolic one; a copy from another file system."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _vary(source: Path, target: Path, steps: Sequence[Sequence[str]]) -> str | None:
    """A copy of a bundle that `xlm-export` adds graphs to. Returns why a step failed."""
    if target.is_dir():
        return None
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copytree(source, temporary)
    for command, *arguments in steps:
        reason = _run([sys.executable, "-m", "xlm_export", command, str(temporary), *arguments])
        if reason:
            shutil.rmtree(temporary)
            return reason.replace(str(temporary), target.name)
    # links only now: onnx reads no weights from a file with several names
    before, after = Bundle.load(source).files, Bundle.load(temporary).files
    for name in before:
        if after.get(name) == before[name]:
            _link(source / name, temporary / name)
    temporary.rename(target)
    return None


def _prepare_optimum(made: Prepared, target: Path, python: Path) -> None:
    if not target.is_dir():
        if not python.is_file():
            made.missing["optimum"] = f"its environment '{python}' is not there; `make optimum` makes it"
            return
        command = [str(python), "-m", "benchmarks.optimum_export", str(made.checkpoint)]
        reason = _make(target, lambda path: [*command, str(path), made.task])
        if reason:
            made.missing["optimum"] = reason
            return
    made.optimum = target


def _prepare_openvino(made: Prepared, target: Path) -> None:
    if not target.is_dir():
        graph = made.bundles["padded fp32"] / "model.onnx"
        command = [sys.executable, "-m", "benchmarks.openvino_int8", str(graph), str(made.checkpoint)]
        reason = _make(target, lambda path: [*command, str(path)])
        if reason:
            made.missing["openvino-int8"] = reason
            return
    made.openvino_int8 = target / "model.xml"


def _make(target: Path, command: Callable[[Path], list[str]]) -> str | None:
    """Run a command that writes a folder; the folder gets its name when it is whole. Returns why it failed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    reason = _run(command(temporary))
    if reason:
        shutil.rmtree(temporary, ignore_errors=True)
        return reason.replace(str(temporary), target.name)
    temporary.rename(target)
    return None


def _run(command: list[str]) -> str | None:
    """None, or the last line that a failing command printed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        return None
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit status {done.returncode}"
