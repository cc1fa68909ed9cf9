"""A bundle with some of another one's graphs and what they need, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xlm_export.bundle_folder import check_place, write_bundle
from xlm_export.bundle_writer import recipe_of, without
from xlm_export.onnx_graph.file import copy_weights, external_data, open_model, save
from xlm_export.progress import Progress, Steps
from xlm_runtime.bundle import Bundle, Graph, file_sha256
from xlm_runtime.bundle.engine_stamp import find_stamps
from xlm_runtime.bundle.schema import ENGINES_FOLDER
from xlm_runtime.bundle.timings import Record, is_whole
from xlm_runtime.errors import InputError


@dataclass(frozen=True)
class Slimmed:
    """What was made: the new bundle, and the graphs that are not in it."""

    bundle: Bundle
    left_out: tuple[Graph, ...]


def slim(
    bundle: str | Path,
    out: str | Path,
    keep: Sequence[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> Slimmed:
    """Write a bundle with some graphs of another one. The folder appears whole or not at all.

    With the graphs come the tokenizer, the configuration, the reports on these graphs, their TensorRT engines and their
    times of `xlm-runtime autotune`. A graph that reads weights of one that stays behind gets its own.

    Args:
        bundle: the bundle to take them from, which stays as it is.
        out: the folder to write; the bundle's own only with `force`.
        keep: recipes, precisions or files of graphs; a name keeps all graphs that it names. The bundle's default graph
            stays the default; if it is not kept, the first graph of the first name is.
        force: replace a bundle that is already at `out`.
        progress: see `Progress`.

    Raises:
        InputError: a name that no graph has, or `out` is already there.
        BundleError: files that are missing or damaged.
    """
    steps = Steps(progress, 2)
    target = Path(out)
    check_place(target, force)
    steps("check the bundle")
    written = Bundle.load(bundle)
    graphs = named_graphs(written, keep)
    with write_bundle(target, force) as folder:
        steps("copy the graphs")
        made = copy_graphs(written, graphs, folder)
    files = {graph.file for graph in graphs}
    return Slimmed(replace(made, folder=target), tuple(graph for graph in written.graphs if graph.file not in files))


def named_graphs(bundle: Bundle, names: Sequence[str]) -> tuple[Graph, ...]:
    """The graphs that recipes, precisions or files name, the one to be the default first.

    Raises:
        InputError: no name, or one that no graph has.
    """
    if not names:
        raise InputError("No graph to keep was named; expected recipes, precisions or files of graphs.")
    chosen: list[Graph] = []
    for name in names:
        found = [graph for graph in bundle.graphs if name in (graph.file, graph.precision, recipe_of(bundle, graph))]
        if not found:
            raise InputError(
                f"The bundle '{bundle.folder}' has no graph '{name}' to keep; it has "
                f"{', '.join(f'{graph.title} ({graph.file})' for graph in bundle.graphs)}."
            )
        chosen += found
    default = bundle.graphs[0] if bundle.graphs[0] in chosen else chosen[0]
    return (default, *(graph for graph in bundle.graphs if graph in chosen and graph != default))


def copy_graphs(bundle: Bundle, graphs: Sequence[Graph], folder: Path) -> Bundle:
    """Write graphs of a bundle and what they need into an empty folder; the first one becomes the default.

    Raises:
        BundleError: files that are missing or damaged.
    """
    of_graphs = {name for graph in bundle.graphs for name in bundle.files_of(graph)}
    owners = {name for graph in graphs if not graph.weights_in for name in bundle.files_of(graph)}
    alone = [graph for graph in graphs if not owners.issuperset(graph.weights_in)]
    needed = {name for graph in graphs if graph not in alone for name in bundle.files_of(graph)}
    copied = [name for name in bundle.files if name not in of_graphs or name in needed]
    for name in copied:
        shutil.copyfile(bundle.path(name), folder / name)
    files = {name: bundle.files[name] for name in copied}
    for graph in alone:
        bundle.check_files(bundle.files_of(graph))
        files |= _write_alone(bundle, graph, folder)
    kept = {graph.file for graph in graphs}
    rest = without(bundle, [graph for graph in bundle.graphs if graph.file not in kept], set())
    made = replace(
        rest,
        folder=folder,
        graphs=tuple(replace(graph, weights_in=()) if graph in alone else graph for graph in graphs),
        files=files,
        timings=tuple(_of_graphs(entry, kept) for entry in bundle.timings if is_whole(entry)),
    )
    _copy_engines(bundle, kept, folder)
    made.check_files()  # against the hashes that the bundle had: nobody has replaced a file meanwhile
    made.write()
    return made


def _write_alone(bundle: Bundle, graph: Graph, folder: Path) -> dict[str, str]:
    """Write a graph with all weights that it reads; returns its files and their hashes."""
    model = open_model(bundle.path(graph.file))
    copy_weights(model)
    save(model, folder / graph.file)
    paths = (folder / graph.file, external_data(folder / graph.file))
    return {path.name: file_sha256(path) for path in paths if path.exists()}


def _of_graphs(entry: Any, files: Set[str]) -> dict[str, Any]:
    """A machine's record of times, those of other graphs left out."""
    record = Record.from_dict(entry)
    return replace(
        record,
        timings=tuple(item for item in record.timings if item.graph in files),
        left_out=tuple(item for item in record.left_out if item.graph is None or item.graph in files),
    ).to_dict()


def _copy_engines(bundle: Bundle, files: Set[str], folder: Path) -> None:
    """Copy the engines that were built from these graphs, and their stamps."""
    for stamp in find_stamps(bundle):
        if stamp.graph in files:
            (folder / ENGINES_FOLDER).mkdir(exist_ok=True)
            plan = bundle.folder / stamp.plan
            for path in (plan, plan.with_suffix(".json")):
                shutil.copyfile(path, folder / ENGINES_FOLDER / path.name)
