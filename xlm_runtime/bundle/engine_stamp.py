"""The stamp of a TensorRT engine: what a plan was built from, by what and for what, in a JSON file beside the plan.

`xlm-export engine` writes `engines/NAME.plan` and `engines/NAME.json` into a bundle's folder. A plan is only good for
the GPU architectures, the TensorRT versions and the graph that it was built with, and loading another one fails late or
not at all; so the stamp is checked first.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import Bundle, schema
from xlm_runtime.bundle.atomic import write_json
from xlm_runtime.bundle.hashes import remembered_sha256
from xlm_runtime.bundle.schema import ENGINES_FOLDER
from xlm_runtime.checked_json import MismatchError, read_object
from xlm_runtime.errors import BundleError, EngineError
from xlm_runtime.tasks import TensorSpec

STAMP_VERSION = 1
FLAVORS = ("tensorrt", "tensorrt-rtx")
PRECISIONS = ("fp32", "fp16", "bf16")  # of graphs that engines are built from

Shape = tuple[int, ...]


@dataclass(frozen=True)
class EngineProfile:
    """Shapes that an engine is optimised for: input → (smallest, optimal, largest) shape.

    Every input of the graph is there. A plan's profiles are numbered by their place in `EngineStamp.profiles`.
    """

    name: str
    shapes: dict[str, tuple[Shape, Shape, Shape]]


@dataclass(frozen=True)
class EngineStamp:
    """What `engines/NAME.json` holds.

    `flavor` is tensorrt or tensorrt-rtx, `version` that module's version, `gpu_archs` GPU architectures such as "sm89",
    `precision` the graph's. `sources` maps the files that the plan was built from (the graph, and its weights where
    they stand in a file of their own) to their sha256. `graph` and `plan` are paths inside the bundle. `inputs` and
    `outputs` are the graph's, whose dtype "float" stands for `precision`. `options` are those of `xlm-export engine`
    that were given beside flavour, precision and architectures, as words.

    `lean_runtime` is None for a plan that the full runtime of the same version runs, and no other. A version-compatible
    plan is for the lean runtime, too. Where it is "included", the plan carries one, with which later versions of the
    same major version run it; where it is "excluded", the same version is needed.
    """

    flavor: str
    version: str
    gpu_archs: tuple[str, ...]
    precision: str
    profiles: tuple[EngineProfile, ...]
    graph: str
    sources: dict[str, str]
    plan: str
    plan_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    options: tuple[str, ...] = ()
    lean_runtime: str | None = None

    @classmethod
    def load(cls, path: str | Path) -> EngineStamp:
        """Read `engines/NAME.json`.

        Raises:
            EngineError: the file is missing, damaged or of another version of this format.
        """
        path = Path(path)
        try:
            values = read_object(path)
            version = values.get("stamp_version")
            if version != STAMP_VERSION:
                raise EngineError(
                    f"The engine stamp '{path}' has version {version!r}, this xlm-onnx reads version {STAMP_VERSION}; "
                    "build the engine again with `xlm-export engine`."
                )
            schema.STAMP(values, "")
        except FileNotFoundError as error:
            raise EngineError(
                f"File '{path.name}' not found in path '{path.parent}'; build the engine with `xlm-export engine`."
            ) from error
        except (BundleError, MismatchError) as error:
            raise EngineError(
                f"The engine stamp '{path}' is damaged ({error}); build the engine again with `xlm-export engine`."
            ) from error
        return cls(
            flavor=values["flavor"],
            version=values["version"],
            gpu_archs=tuple(values["targets"]),
            precision=values["precision"],
            profiles=tuple(_profile(item["name"], item["shapes"]) for item in values["profiles"]),
            graph=values["graph"],
            sources=values["sources"],
            plan=values["plan"],
            plan_sha256=values["plan_sha256"],
            inputs=_specs(values["inputs"]),
            outputs=_specs(values["outputs"]),
            options=tuple(values.get("options", ())),
            lean_runtime=values.get("lean_runtime"),
        )

    def to_dict(self) -> dict[str, Any]:
        """What the JSON file holds."""
        return {
            "stamp_version": STAMP_VERSION,
            "flavor": self.flavor,
            "version": self.version,
            "targets": list(self.gpu_archs),
            "precision": self.precision,
            "profiles": [{"name": profile.name, "shapes": profile.shapes} for profile in self.profiles],
            "graph": self.graph,
            "sources": self.sources,
            "plan": self.plan,
            "plan_sha256": self.plan_sha256,
            "inputs": [_listed(spec) for spec in self.inputs],
            "outputs": [_listed(spec) for spec in self.outputs],
            "options": list(self.options),
            "lean_runtime": self.lean_runtime,
        }

    def write(self, path: str | Path, report: dict[str, Any] | None = None) -> None:
        """Write the JSON file, whole or not at all; `report` is kept beside the stamp, for readers."""
        write_json(Path(path), self.to_dict() | ({"report": report} if report is not None else {}))

    def check(self, bundle: Bundle, flavor: str, version: str, architecture: str, *, lean: bool = False) -> None:
        """Compare the stamp with what is about to load the plan.

        Args:
            bundle: the bundle that the stamp lies in; its table of contents says what the graph's hash is.
            flavor, version: the TensorRT module at hand.
            architecture: the GPU's, such as "sm89".
            lean: whether that module is the lean runtime.

        Raises:
            EngineError: the engine does not fit; the message says why and gives the command that builds it anew.
        """
        why = self._misfit(bundle, flavor, version, architecture, lean)
        if why is not None:
            raise EngineError(
                f"The engine '{bundle.folder / self.plan}' {why} "
                f"Build it again: {self._rebuild_command(bundle, flavor, architecture, lean)}"
            )

    def _rebuild_command(self, bundle: Bundle, flavor: str, architecture: str, lean: bool) -> str:
        """For the runtime and GPU at hand beside those that it was for, from the same graph if it is still there."""
        before = self.gpu_archs if self.flavor == flavor else ()
        archs = dict.fromkeys((*before, architecture)) if flavor == "tensorrt-rtx" else ()
        precision = self.precision if self.precision in _precisions(bundle) else None
        further = ("--version-compatible",) if lean and self.lean_runtime is None else ()
        return build_command(bundle, flavor, precision, tuple(archs), (*self.options, *further))

    def _misfit(self, bundle: Bundle, flavor: str, version: str, architecture: str, lean: bool) -> str | None:
        """What does not fit, as the end of a sentence that begins with the engine's name."""
        if self.flavor != flavor:
            return f"was built by {self.flavor}, but {flavor} is to load it."
        if lean and self.lean_runtime is None:
            return f"is not version-compatible, and the lean runtime of {flavor}, {version}, runs no other."
        if self.lean_runtime == "included":
            built, here = _numbers(self.version), _numbers(version)
            if built[:1] != here[:1] or built > here:
                return (
                    f"was built by {flavor} {self.version}, but {version} is installed; it runs with that version and "
                    f"later ones of {flavor} {self.version.partition('.')[0]}."
                )
        elif self.version != version:
            return f"was built by {flavor} {self.version}, but {version} is installed, which cannot load it."
        if architecture not in self.gpu_archs:
            return f"was built for {', '.join(self.gpu_archs)}, but this GPU is {architecture}."
        for name, digest in self.sources.items():
            if bundle.files.get(name) != digest:
                return f"was built from another '{name}' than the bundle holds now."
        plan = bundle.folder / self.plan
        if not plan.is_file():
            return "is not there, though its stamp is."
        schema.check_inside(bundle.folder, [self.plan])
        if remembered_sha256(plan) != self.plan_sha256:
            return "has changed since it was built (sha256 differs)."
        return None


def build_command(
    bundle: Bundle,
    flavor: str,
    precision: str | None = None,
    gpu_archs: Sequence[str] = (),
    options: Sequence[str] = (),
) -> str:
    """The command that builds an engine, as a shell takes it.

    Args:
        precision: the graph's; by default that of the bundle's first graph that an engine can be built from.
        gpu_archs: GPU architectures, none for the GPU at hand.
        options: further ones, as `EngineStamp.options`.
    """
    there = _precisions(bundle)
    if precision is None and there:
        precision = there[0]
    words = ["xlm-export", "engine", str(bundle.folder), "--flavor", flavor]
    words += [] if precision is None else ["--precision", precision]
    words += ["--gpu-arch", ",".join(gpu_archs)] if gpu_archs else []
    return shlex.join([*words, *options])


def _precisions(bundle: Bundle) -> list[str]:
    """Of the graphs that an engine can be built from."""
    return [
        graph.precision
        for graph in bundle.graphs
        if graph.target is None and not graph.is_packed and graph.precision in PRECISIONS
    ]


def find_stamps(bundle: Bundle, precision: str | None = None) -> tuple[EngineStamp, ...]:
    """The stamps of a bundle's engines, by their files' names.

    Args:
        precision: only engines in this precision.

    Raises:
        EngineError: a stamp that cannot be read.
    """
    paths = sorted((bundle.folder / ENGINES_FOLDER).glob("[!.]*.json"))
    stamps = (EngineStamp.load(path) for path in paths)
    return tuple(stamp for stamp in stamps if precision in (None, stamp.precision))


def _numbers(version: str) -> list[int]:
    """Of a version such as "10.9.0.34", for comparison."""
    return [int(part) for part in re.findall(r"\d+", version)]


def _profile(name: str, shapes: dict[str, list[list[int]]]) -> EngineProfile:
    read: dict[str, tuple[Shape, Shape, Shape]] = {}
    for tensor, (smallest, optimal, largest) in shapes.items():
        read[tensor] = (tuple(smallest), tuple(optimal), tuple(largest))
    return EngineProfile(name, read)


def _specs(items: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], item["dtype"], tuple(item["axes"])) for item in items)


def _listed(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "dtype": spec.dtype, "axes": list(spec.axes)}
