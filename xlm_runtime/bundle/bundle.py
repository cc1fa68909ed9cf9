"""The bundle: the folder that an export writes and the runtime loads. Here is its format, and its reader.

`bundle.json` is the folder's table of contents; `Bundle` and `Graph` are its sections. Any folder that holds it and the
files it lists can be copied anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import schema
from xlm_runtime.bundle.atomic import write_json
from xlm_runtime.bundle.graph import Graph
from xlm_runtime.bundle.hashes import file_sha256, remembered_sha256
from xlm_runtime.bundle.locks import writing
from xlm_runtime.bundle.onnx_file import external_locations
from xlm_runtime.bundle.schema import BUNDLE_FILE, LANGS_INPUT
from xlm_runtime.checked_json import check, check_regular, read_object
from xlm_runtime.config import XLMConfig
from xlm_runtime.errors import BundleError, InputError
from xlm_runtime.families import read_config
from xlm_runtime.providers import find_provider
from xlm_runtime.tasks import PAST, PRESENT, find_task

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle's table of contents.

    `files` maps each file's name to its sha256; `source` names the checkpoint and its hash; `versions` the libraries
    that wrote it; `conventions` holds `uses_langs`, `langs` (`LANGS_INPUT`, `LANGS_NONE` or a language) and, for the
    beam head, `cls_index`; `verification` holds `status` ("passed", "failed" or "not run") and the report's summary;
    `timings` the records of `xlm-runtime autotune`, one for each machine (`timings.Record`; "calibration" in
    `bundle.json`), which `timings.read_records` checks; `providers` those that it was made for, the best first, which
    are tried where none is asked for.
    """

    folder: Path
    task: str
    architecture: str
    graphs: tuple[Graph, ...]
    files: dict[str, str]
    source: dict[str, Any]
    versions: dict[str, str]
    conventions: dict[str, Any]
    verification: dict[str, Any]
    config: XLMConfig
    timings: tuple[Any, ...] = ()
    providers: tuple[str, ...] = ()

    @classmethod
    def load(cls, folder: str | Path, *, accept_failed: bool = False) -> Bundle:
        """Read and check `bundle.json` and `config.json`; `check_files` reads the rest.

        Args:
            accept_failed: also load a bundle whose verification failed, to look into it.

        Raises:
            BundleError: a missing or damaged file, names or links that lead out of the folder, a format that this
                version does not know, or a failed verification.
        """
        folder = Path(folder)
        values = read_contents(folder)
        verification, timings = values["verification"], values.get("calibration", [])
        bundle = cls(
            folder=folder,
            task=values["task"],
            architecture=values["architecture"],
            graphs=tuple(Graph.from_dict(graph) for graph in values["graphs"]),
            files=values["files"],
            source=values["source"],
            versions=values["versions"],
            conventions=values["conventions"],
            verification=verification,
            config=_read_config(folder),
            timings=tuple(timings) if isinstance(timings, list) else (timings,),
            providers=tuple(values.get("providers", ())),
        )
        bundle._check_graphs()
        schema.check_inside(folder, (schema.ENGINES_FOLDER, *schema.READ_FILES, *bundle.files))
        schema.check_listed(folder, bundle.files)
        if verification["status"] == "failed" and not accept_failed:
            raise BundleError(
                f"The bundle '{folder}' failed its verification: its graph does not give the checkpoint's answers. "
                "`xlm-export verify` shows where; export it again."
            )
        return bundle

    def _check_graphs(self) -> None:
        """Whether the graphs fit the task, the configuration and the list of files."""
        try:
            outputs = {spec.name for spec in find_task(self.architecture, self.task).outputs}
        except InputError as error:
            raise self._damaged(str(error)) from error
        files = [graph.file for graph in self.graphs]
        if len({*files}) < len(files):
            raise self._damaged(f"Two of its graphs have the same file: {', '.join(files)}.")
        for graph in self.graphs:
            if absent := [name for name in (graph.file, *graph.weights_in) if name not in self.files]:
                raise self._damaged(f"The graph '{graph.file}' needs '{absent[0]}', which has no hash there.")
            if missing := sorted(outputs - {spec.name for spec in graph.outputs}):
                raise self._damaged(f"The graph '{graph.file}' has no output {missing[0]}, which {self.task} reads.")
            past = sum(spec.name.startswith(PAST) for spec in graph.inputs)
            if past not in (0, 2 * self.config.n_layers):
                raise self._damaged(f"The graph '{graph.file}' takes {past} keys and values of past tokens, and "
                                    f"config.json has {self.config.n_layers} layers.")  # fmt: skip
            length = "past_sequence" if graph.has_static_cache else "sequence"
            if any(spec.name.startswith(PRESENT) and length not in spec.axes for spec in graph.outputs):
                raise BundleError(
                    f"The bundle '{self.folder}' has a graph whose keys and values of past tokens come back with each "
                    "step; this xlm-onnx reads graphs that give those of new tokens alone. Export it again."
                )

    def _damaged(self, why: str) -> BundleError:
        return BundleError(f"File '{BUNDLE_FILE}' in path '{self.folder}' is damaged: {why} Export it again.")

    @classmethod
    def update(cls, folder: str | Path, change: Callable[[Bundle], Bundle]) -> Bundle:
        """Change `bundle.json` as it is at this moment, while no other process does.

        Args:
            change: from the bundle as it is, whatever its verification says, to what is written.

        Returns:
            What was written.

        Raises:
            BundleError: see `load`.
            OSError: the folder cannot be written.
        """
        if not Path(folder).is_dir():
            cls.load(folder)  # says so
        with writing(Path(folder)):
            changed = change(cls.load(folder, accept_failed=True))
            changed.write()
        return changed

    def to_dict(self) -> dict[str, Any]:
        """What `bundle.json` holds."""
        values = {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "architecture": self.architecture,
            "graphs": [graph.to_dict() for graph in self.graphs],
            "files": self.files,
            "source": self.source,
            "versions": self.versions,
            "conventions": self.conventions,
            "verification": self.verification,
        }
        values |= {"calibration": list(self.timings)} if self.timings else {}
        return values | ({"providers": list(self.providers)} if self.providers else {})

    def graph(self, precision: str | None = None, provider: str | None = None) -> Graph:
        """The graph of a precision or recipe, by default of the quality of the bundle's first graph, for a provider.

        Of several a provider takes the one that it prefers, see `Provider.targets`; without a provider portable graphs
        come first.

        Raises:
            InputError: an unknown provider, or the bundle has no such graph.
        """
        wanted = self.graphs[0].quality if precision is None else precision
        if precision is None:
            fitting = [graph for graph in self.graphs if graph.quality == wanted]
        else:
            fitting = [graph for graph in self.graphs if wanted in (graph.precision, graph.recipe)]
        if provider is None:
            usable = sorted(fitting, key=lambda graph: not graph.is_portable)  # the first of equals stays first
        else:
            row = find_provider(provider)
            usable = [graph for graph in fitting if graph.target in row.targets]
            usable.sort(key=lambda graph: (graph.layout not in row.layouts, row.targets.index(graph.target)))
        if usable:
            return usable[0]
        which = f" for provider '{provider}'" if fitting else ""
        raise InputError(
            f"The bundle '{self.folder}' has no graph in precision '{wanted}'{which}; it has "
            f"{', '.join(graph.title for graph in self.graphs)}."
        )

    def files_of(self, graph: Graph) -> list[str]:
        """The graph's file, its external data (`model.onnx` and `model.onnx.data`), and files it shares weights of."""
        owners = (graph.file, *graph.weights_in)
        found = [name for name in self.files if any(name == own or name.startswith(f"{own}.") for own in owners)]
        return found or [graph.file]

    def graph_of_file(self, file: str) -> Graph:
        """The graph in a file.

        Raises:
            InputError: the bundle has no such graph.
        """
        for graph in self.graphs:
            if graph.file == file:
                return graph
        there = ", ".join(graph.file for graph in self.graphs)
        raise InputError(f"The bundle '{self.folder}' has no graph '{file}'; it has {there}.")

    @property
    def knows_no_lang(self) -> bool:
        """Whether -1 in `langs` stands for no language embedding; graphs of version 0.1 know numbers alone."""
        return bool(self.conventions.get("langs") == LANGS_INPUT)

    def digest(self, graph: Graph) -> str:
        """What tells the graph and its weights from any other: the sha256 of its files' names and hashes."""
        listed = "".join(f"{self.files.get(name)} {name}\n" for name in self.files_of(graph))
        return hashlib.sha256(listed.encode()).hexdigest()

    def write(self) -> None:
        """Write `bundle.json`, whole or not at all."""
        write_json(self.folder / BUNDLE_FILE, self.to_dict())

    def check_files(self, names: Iterable[str] | None = None, *, remembered: bool = False) -> None:
        """Compare the files' hashes with the ones noted at export.

        Args:
            names: some of `files`; by default all of them, and then also what the graphs read, see `check_weights_in`.
            remembered: take what `remembered_sha256` knows of large files, and do not read them.

        Raises:
            BundleError: a file is missing or has changed.
        """
        sha256 = remembered_sha256 if remembered else file_sha256
        for name in self.files if names is None else names:
            if sha256(self.path(name)) != self.files[name]:
                raise BundleError(
                    f"File '{name}' in path '{self.folder}' has changed since the export (sha256 differs). "
                    "Copy the bundle again, or export it again."
                )
        if names is None:
            for graph in self.graphs:
                self.check_weights_in(graph)

    def path(self, name: str) -> Path:
        """Where a file of `files` lies.

        Raises:
            BundleError: it is missing, or no regular file.
        """
        path = self.folder / name
        try:
            check_regular(path)
        except OSError as error:
            raise BundleError(
                f"File '{name}' not found in path '{self.folder}'; copy the whole bundle again."
            ) from error
        return path

    def check_weights_in(self, graph: Graph) -> None:
        """Whether a graph reads its weights from its own files alone, before an engine follows what it names.

        Raises:
            BundleError: it names another file; its own is missing, has changed, or is no ONNX file.
        """
        own = self.files_of(graph)
        try:
            located = external_locations(self.path(graph.file))
        except ValueError as error:
            self.check_files([graph.file])  # a changed file is the better explanation
            raise BundleError(f"File '{graph.file}' in path '{self.folder}' is no ONNX file: {error}.") from error
        for name in sorted(located.difference(own)):
            raise BundleError(
                f"The graph '{graph.file}' of the bundle '{self.folder}' reads weights from '{name}', which is none of "
                f"its files in {BUNDLE_FILE} ({', '.join(own)}); export it again."
            )


def read_contents(folder: Path) -> dict[str, Any]:
    """What `bundle.json` holds, once it is as `schema.BUNDLE` says.

    Raises:
        BundleError: it is missing or damaged, or of a format that this version does not know.
    """
    file = f"File '{BUNDLE_FILE}' in path '{folder}'"
    try:
        values = read_object(folder / BUNDLE_FILE)
    except FileNotFoundError:
        if not folder.is_dir():
            raise BundleError(
                f"Folder '{folder}' not found; expected a bundle written by `xlm-export export`."
            ) from None
        raise BundleError(
            f"File '{BUNDLE_FILE}' not found in path '{folder}'. A bundle is what `xlm-export export CHECKPOINT "
            "BUNDLE` writes; a checkpoint folder has to be exported first."
        ) from None
    check(values, schema.VERSIONED, file, "export again")
    version = values["format_version"]
    if version != FORMAT_VERSION:
        remedy = "upgrade xlm-onnx (pip install -U xlm-onnx)" if version > FORMAT_VERSION else "export it again"
        raise BundleError(
            f"The bundle '{folder}' has format version {version}, this xlm-onnx reads version {FORMAT_VERSION}; "
            f"{remedy}."
        )
    check(values, schema.BUNDLE, file, "export again")
    check(values["conventions"], schema.CONVENTIONS, f"{file}, section 'conventions',", "export again")
    check(values["verification"], schema.VERIFICATION, f"{file}, section 'verification',", "export again")
    return values


def _read_config(folder: Path) -> XLMConfig:
    try:
        return read_config(folder)
    except InputError as error:
        raise BundleError(f"File 'config.json' in path '{folder}' is damaged: {error}; export again.") from error
