"""What writes a further graph into a bundle that is there.

A bundle is never half written. The graph is written under a hidden name in the bundle's own folder, where the weights
are that it reads, and sessions open it there.

`add_graph` then puts the graph in its place. At no moment does `bundle.json` name a file with another content than it
says, so where a graph takes the name of an earlier one, `bundle.json` first loses that one. On any exception the bundle
is as before; when the process is killed in between, what is left loads, at worst without the graph to be replaced.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from xlm_export.onnx_graph.file import external_data, rename_external_file
from xlm_runtime.bundle import BUNDLE_FILE, Bundle, Graph, file_sha256
from xlm_runtime.bundle.locks import held, writing
from xlm_runtime.errors import BundleError, InputError

Section = Literal["quantized", "optimized"]
"""Of `Bundle.verification`: graph file → the report on what was made."""
SECTIONS: tuple[Section, ...] = ("quantized", "optimized")

EXPORTED = ("fp32", "fp16", "bf16")
"""Precisions that an export gives; graphs in others were made by recipes."""


_DRAFT = ".adding-"


@contextmanager
def draft_of(bundle: Bundle) -> Iterator[Path]:
    """A hidden name in the bundle's folder for a graph that `add_graph` puts in its place.

    At the end all that has this name, or begins with it, is removed: external data, other models for a while. So are
    drafts that killed processes left: a draft has a lock, which its process holds.
    """
    folder, name = bundle.folder, f"{_DRAFT}{os.urandom(4).hex()}.onnx"
    for lock in folder.glob(f"{_DRAFT}*.onnx.lock"):
        with suppress(OSError), held(lock) as dead:
            if dead:
                _remove_all(folder, lock.name.removesuffix(".lock"))
    with held(folder / f"{name}.lock"):
        try:
            yield folder / name
        finally:
            _remove_all(folder, name)


def _remove_all(folder: Path, name: str) -> None:
    """Remove what has this name, or begins with it."""
    for path in folder.glob(f"{name}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def draft_bundle(bundle: Bundle, draft: Path, source: Graph, entry: Graph) -> Iterator[Bundle]:
    """A bundle of the source and the draft alone, for pipelines: a hidden folder of links, gone at the end."""
    others = {name for graph in bundle.graphs for name in bundle.files_of(graph)} - {*bundle.files_of(source)}
    folder = Path(tempfile.mkdtemp(prefix=f"{draft.name}.", dir=bundle.folder))
    try:
        files = {name: digest for name, digest in bundle.files.items() if name not in others}
        files |= {path.name: file_sha256(path) for path in _own_files(draft)}
        for name in files:
            _link(bundle.folder / name, folder / name)
        made = replace(bundle, folder=folder, graphs=(source, replace(entry, file=draft.name)), files=files)
        made.write()
        yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _own_files(draft: Path) -> list[Path]:
    """The graph and its external data."""
    return [path for path in (draft, external_data(draft)) if path.exists()]


def _link(file: Path, link: Path) -> None:
    """A hard link, since providers refuse weights behind a symbolic one; a copy where there are no hard links."""
    try:
        link.hardlink_to(file.resolve())
    except OSError:
        shutil.copy2(file, link)


def recipe_of(bundle: Bundle, graph: Graph) -> str | None:
    """The recipe that made a graph, None for one that no recipe made; older bundles name it in their report alone."""
    if graph.recipe is not None:
        return graph.recipe
    report = bundle.verification.get("quantized", {}).get(_older_key(graph), {})
    return str(report["recipe"]) if "recipe" in report else None


def is_exported(bundle: Bundle, graph: Graph) -> bool:
    """Whether a graph is as it was traced: no recipe and no target."""
    return graph.is_portable and graph.precision in EXPORTED and recipe_of(bundle, graph) is None


def exported_graph(bundle: Bundle) -> Graph:
    """The graph that the bundle was exported with, whichever is its first one now.

    Raises:
        InputError: it has none.
    """
    for graph in bundle.graphs:
        if is_exported(bundle, graph):
            return graph
    there = ", ".join(graph.title for graph in bundle.graphs)
    raise InputError(f"The bundle '{bundle.folder}' has no graph as it was exported, only {there}; export it again.")


def set_default(folder: str | Path, name: str) -> Graph:
    """Make a graph the bundle's first one, whose quality pipelines take where no precision is asked for.

    Args:
        name: its file, or its recipe or precision, of which the first portable graph is taken.

    Returns:
        The graph.

    Raises:
        InputError: there is none.
        BundleError: see `Bundle.load`.
    """

    def put_first(bundle: Bundle) -> Bundle:
        files = [graph.file for graph in bundle.graphs]
        first = bundle.graph_of_file(name) if name in files else bundle.graph(name)
        return replace(bundle, graphs=(first, *(graph for graph in bundle.graphs if graph != first)))

    return Bundle.update(folder, put_first).graphs[0]


def replaced_by(bundle: Bundle, entry: Graph, section: Section) -> tuple[Graph, ...]:
    """The bundle's graphs that a new one takes the place of.

    An optimised graph replaces the one of the same target, precision, recipe and layout; a quantised one also those
    that were made of the graph that it replaces. A graph of an older bundle whose recipe nobody knows counts as made by
    the new one's.
    """

    def same(graph: Graph) -> bool:
        recipe = recipe_of(bundle, graph)
        if recipe is None and graph.precision not in EXPORTED:
            recipe = entry.recipe
        place = (graph.precision, graph.layout, recipe) == (entry.precision, entry.layout, entry.recipe)
        return place and (section == "quantized" or graph.target == entry.target)

    return tuple(graph for graph in bundle.graphs if same(graph))


def add_graph(
    bundle: Bundle, draft: Path, source: Graph, entry: Graph, section: Section, report: Mapping[str, Any]
) -> Bundle:
    """Put a graph that was written into a draft in its place, instead of those that it replaces.

    `bundle.json` is read again before, so that what others wrote meanwhile stays.

    Args:
        bundle: as it was read when the draft was begun.
        draft: see `draft_of`; where the graph was saved.
        source: the graph that it was made of.
        section, report: what `Bundle.verification` keeps on it.

    Returns:
        The bundle as it is now.

    Raises:
        BundleError: the source's files are no longer those that it was made of, or another graph has its name.
    """
    data = external_data(draft)
    if data.exists():
        rename_external_file(draft, data.name, external_data(bundle.folder / entry.file).name)
    names = (entry.file, external_data(bundle.folder / entry.file).name)
    drafts = dict(zip(names, _own_files(draft), strict=False))
    if not drafts:
        raise BundleError(f"The bundle '{bundle.folder}' was replaced while a graph was made of it; try again.")
    with writing(bundle.folder):
        return _put(bundle, draft, drafts, source, entry, section, report)


def _put(
    bundle: Bundle,
    draft: Path,
    drafts: Mapping[str, Path],
    source: Graph,
    entry: Graph,
    section: Section,
    report: Mapping[str, Any],
) -> Bundle:
    """`add_graph`, while nobody else writes; `drafts` are the new files by their names to be."""
    contents = bundle.folder / BUNDLE_FILE
    now = Bundle.load(bundle.folder, accept_failed=True)
    gone = replaced_by(now, entry, section)
    old = {name for graph in gone for name in now.files_of(replace(graph, weights_in=()))}
    old -= {name for graph in now.graphs if graph not in gone for name in now.files_of(graph)}
    _check_unchanged(bundle, now, source, drafts.keys() - old)
    rest = without(now, gone, old)
    reports = {**rest.verification.get(section, {}), entry.file: dict(report)}
    graphs = (entry, *rest.graphs) if now.graphs[0] in gone else (*rest.graphs, entry)  # the default stays the default
    made = replace(
        rest,
        graphs=graphs,
        files={**rest.files, **{name: file_sha256(path) for name, path in drafts.items()}},
        verification={**rest.verification, section: reports},
    )
    aside = Path(tempfile.mkdtemp(prefix=f"{draft.name}.", dir=bundle.folder))
    with ExitStack() as undo:
        if old & drafts.keys():  # a name in bundle.json is about to get another content
            _keep(contents, aside / "before.json", undo)
            rest.write()
            for name in sorted(old):
                _move(bundle.folder / name, aside / name, undo)
        for name, path in drafts.items():
            _move(path, bundle.folder / name, undo)
        _keep(contents, aside / "between.json", undo)
        made.write()
        undo.pop_all()
    for name in old - drafts.keys():
        (bundle.folder / name).unlink(missing_ok=True)
    return made


def _check_unchanged(before: Bundle, now: Bundle, source: Graph, new_names: Set[str]) -> None:
    for name in before.files_of(source):
        if now.files.get(name) != before.files.get(name):
            raise BundleError(f"File '{name}' of the bundle '{now.folder}' was replaced while a graph was made of it; "
                              "try again.")  # fmt: skip
    for name in sorted(new_names & now.files.keys()):
        raise BundleError(f"The bundle '{now.folder}' has another file '{name}', whose name the new graph needs; "
                          "rename that one in the bundle, or export again.")  # fmt: skip


def without(bundle: Bundle, gone: Sequence[Graph], files: Set[str]) -> Bundle:
    """The bundle without some graphs, their files and the reports on them."""
    graphs = tuple(graph for graph in bundle.graphs if graph not in gone)
    keys = {graph.file for graph in graphs} | {_older_key(graph) for graph in graphs if graph.recipe is None}
    reports: dict[str, Any] = {
        section: {key: report for key, report in bundle.verification[section].items() if key in keys}
        for section in SECTIONS
        if section in bundle.verification
    }
    return replace(
        bundle,
        graphs=graphs,
        files={name: digest for name, digest in bundle.files.items() if name not in files},
        verification={**bundle.verification, **reports},
    )


def _older_key(graph: Graph) -> str:
    """The key of a graph's report in older bundles, which held one graph for each precision and layout."""
    return f"packed {graph.precision}" if graph.is_packed else graph.precision


def _keep(file: Path, copy: Path, undo: ExitStack) -> None:
    """Keep a file that will be replaced; it comes back when `undo` is run, on a full disk too."""
    _link(file.resolve(), copy)
    undo.callback(os.replace, copy, file)


def _move(file: Path, place: Path, undo: ExitStack) -> None:
    undo.callback(_move_back, place, file)  # before, since an interrupt may come between
    os.replace(file, place)


def _move_back(place: Path, file: Path) -> None:
    if os.path.lexists(place) and not os.path.lexists(file):
        os.replace(place, file)
