"""What a bundle becomes in each of Triton's backends: one model of the repository.

The table `BACKENDS` says which there are. Everything that can be wrong is found here, before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from xlm_export.triton.options import ServingOptions
from xlm_export.triton.pbtxt import Constant, Message, text_of
from xlm_export.triton.tensors import Tensors, read_tensors
from xlm_runtime.bundle import BUNDLE_FILE, Bundle, Graph
from xlm_runtime.bundle.atomic import json_text
from xlm_runtime.bundle.engine_stamp import EngineStamp, build_command, find_stamps
from xlm_runtime.bundle.schema import ENGINES_FOLDER
from xlm_runtime.errors import InputError
from xlm_runtime.model.choose import choose_graph
from xlm_runtime.model.opening import check_graph
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.providers import AUTO, find_provider
from xlm_runtime.sessions import GpuOptions
from xlm_runtime.triton.model import ANSWER, BUNDLE, TEXT

_MODEL_PY = '''"""Answers texts with the bundle beside this file, as config.pbtxt says. (`xlm-export triton`)"""

from xlm_runtime.triton.model import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''
_FLAVOR = "tensorrt"


@dataclass(frozen=True)
class ServedModel:
    """One folder of a model repository.

    Attributes:
        name: the folder's, and the model's.
        config: text of `config.pbtxt`.
        files: what lies in the version's folder: name → the bundle's file.
        texts: what is written there: name → text.
        note: for people: what it takes, and how it is batched.
        task: that it answers texts for; None for a graph by itself.
    """

    name: str
    config: str
    files: Mapping[str, Path]
    note: str
    texts: Mapping[str, str] = field(default_factory=dict)
    task: str | None = None


class Backend(NamedTuple):
    """A row: what the model's name has behind that of the task, and what makes the model."""

    suffix: str
    make: Callable[[Bundle, str, ServingOptions], ServedModel]


def python_model(bundle: Bundle, name: str, options: ServingOptions) -> ServedModel:
    """Texts in, answers out, by a pipeline of the runtime.

    Raises:
        InputError: the bundle does not answer the task, or has no graph that the provider takes.
        BundleError: a graph that pipelines cannot feed.
        EngineError: no engine for a provider that reads engines.
    """
    task = options.task or bundle.task
    if task not in PIPELINES or PIPELINES[task].bundle_task != bundle.task:
        fitting = [name for name, row in PIPELINES.items() if row.bundle_task == bundle.task]
        raise InputError(f"The bundle '{bundle.folder}' does not answer '{task}'; expected {' or '.join(fitting)}.")
    reads_engines = options.provider == AUTO or find_provider(options.provider).reads_engines
    if options.provider != AUTO:
        _check_provider(bundle, options)
    given = {
        "task": task,
        "provider": options.provider,
        "precision": options.precision,
        "threads": options.threads,
        "engine": options.engine if reads_engines else None,
    }
    kind = "KIND_AUTO" if options.provider == AUTO else "KIND_GPU" if options.on_gpu else "KIND_CPU"
    config: Message = {
        "name": name,
        "backend": "python",
        "max_batch_size": options.max_batch,
        "input": {"name": TEXT, "data_type": Constant("TYPE_STRING"), "dims": [1]},
        "output": {"name": ANSWER, "data_type": Constant("TYPE_STRING"), "dims": [1]},
        "dynamic_batching": {"max_queue_delay_microseconds": options.max_queue_delay_us},
        "instance_group": {"count": options.instances, "kind": Constant(kind)},
        "parameters": _parameters({key: str(value) for key, value in given.items() if value is not None}),
    }
    names = list(bundle.files)
    if reads_engines:
        names += [f"{ENGINES_FOLDER}/{path.name}" for path in (bundle.folder / ENGINES_FOLDER).glob("[!.]*")]
    texts = {"model.py": _MODEL_PY, f"{BUNDLE}/{BUNDLE_FILE}": json_text(bundle.to_dict())}
    return ServedModel(
        name,
        text_of(config),
        files={f"{BUNDLE}/{each}": bundle.folder / each for each in names},
        note=f"{task}, texts in and answers out, in batches of up to {options.max_batch}",
        texts=texts,
        task=task,
    )


def onnxruntime_model(bundle: Bundle, name: str, options: ServingOptions) -> ServedModel:
    """The padded graph, arrays in and arrays out.

    Raises:
        InputError: the bundle has none in this precision, or it keeps a cache.
    """
    graph = _padded_graph(bundle, options)
    tensors = read_tensors(bundle.path(graph.file))
    batch = 0 if tensors.unbatched() else options.max_batch
    threads = {"intra_op_thread_count": str(options.threads)} if options.threads and not options.on_gpu else {}
    config = {
        **_of_graph(name, "onnxruntime", tensors, batch),
        "default_model_filename": graph.file,
        **_batching(batch, options, ()),
        "instance_group": {
            "count": options.instances,
            "kind": Constant("KIND_GPU" if options.on_gpu else "KIND_CPU"),
        },
        "parameters": _parameters(threads),
    }
    files = {each: bundle.folder / each for each in bundle.files_of(graph)}
    return ServedModel(name, text_of(config), files, _graph_note(graph.file, tensors, batch))


def tensorrt_model(bundle: Bundle, name: str, options: ServingOptions) -> ServedModel:
    """A TensorRT engine of the bundle, with all of its profiles.

    Raises:
        InputError: the bundle has none that Triton loads, or several and none is named, or it keeps a cache.
        EngineError: the engine is damaged, or was built from another graph.
    """
    stamp = _engine(bundle, options)
    _check_cache(bundle.graph_of_file(stamp.graph))
    tensors = read_tensors(bundle.path(stamp.graph))
    rows = [profile.shapes[stamp.inputs[0].name] for profile in stamp.profiles]  # (smallest, optimal, largest) shape
    batch = 0 if tensors.unbatched() else min(options.max_batch, max(largest[0] for _, _, largest in rows))
    best = sorted({optimal[0] for _, optimal, _ in rows if 1 < optimal[0] <= batch})
    config = {
        **_of_graph(name, "tensorrt", tensors, batch),
        **_batching(batch, options, best),
        "instance_group": {
            "count": options.instances,
            "kind": Constant("KIND_GPU"),
            "profile": [str(number) for number in range(len(stamp.profiles))],
        },
    }
    note = f"{_graph_note(stamp.plan, tensors, batch)}; for TensorRT {stamp.version} on {', '.join(stamp.gpu_archs)}"
    return ServedModel(name, text_of(config), {"model.plan": bundle.folder / stamp.plan}, note)


BACKENDS: dict[str, Backend] = {
    "python": Backend("", python_model),
    "onnxruntime": Backend("-onnxruntime", onnxruntime_model),
    "tensorrt": Backend("-tensorrt", tensorrt_model),
}


def _check_provider(bundle: Bundle, options: ServingOptions) -> None:
    """Whether the provider takes what pipelines would give it."""
    gpu = GpuOptions(engine=options.engine) if options.engine else None
    graph = choose_graph(bundle, options.precision, options.provider, gpu)
    check_graph(graph, bundle)
    if not find_provider(options.provider).takes(graph.target, graph.layout, graph.precision):
        raise InputError(f"provider='{options.provider}' does not take the graph '{graph.file}' ({graph.title}).")


def _padded_graph(bundle: Bundle, options: ServingOptions) -> Graph:
    """The graph in the precision that is asked for that Triton's ONNX Runtime takes, and is best for the device."""
    row = find_provider("cuda" if options.on_gpu else "cpu")
    wanted = options.precision or bundle.graphs[0].quality
    fitting = [
        graph
        for graph in bundle.graphs
        if not graph.is_packed
        and wanted in (graph.quality, graph.precision)
        and row.takes(graph.target, graph.layout, graph.precision)
    ]
    if not fitting:
        raise InputError(
            f"The bundle '{bundle.folder}' has no padded graph in precision '{wanted}' for ONNX Runtime on "
            f"{'a GPU' if options.on_gpu else 'the CPU'}; it has {', '.join(graph.title for graph in bundle.graphs)}. "
            "Packed graphs are for our own runtime, which `--backend python` serves; choose another --precision, or "
            "export with --layout padded."
        )
    graph = min(fitting, key=lambda graph: row.targets.index(graph.target))
    _check_cache(graph)
    return graph


def _engine(bundle: Bundle, options: ServingOptions) -> EngineStamp:
    """The one engine that is asked for, as it was built."""
    stamps = {PurePosixPath(stamp.plan).stem: stamp for stamp in find_stamps(bundle, options.precision)}
    ours = {name: stamp for name, stamp in stamps.items() if stamp.flavor == _FLAVOR}
    fitting = {name: stamp for name, stamp in ours.items() if options.engine in (None, name)}
    if len(fitting) > 1:
        raise InputError(f"The bundle '{bundle.folder}' has the engines {', '.join(fitting)}; choose one by --engine.")
    if not fitting:
        there = ", ".join(f"{name} ({stamp.flavor}, {stamp.precision})" for name, stamp in stamps.items()) or "none"
        raise InputError(
            f"Triton's TensorRT backend loads engines of the flavour {_FLAVOR}, and of those that were asked for the "
            f"bundle '{bundle.folder}' has {there}. Build one on a machine with the GPU: "
            f"{build_command(bundle, _FLAVOR, options.precision)}"
        )
    (stamp,) = fitting.values()
    stamp.check(bundle, stamp.flavor, stamp.version, stamp.gpu_archs[0])
    return stamp


def _check_cache(graph: Graph) -> None:
    if graph.has_cache:
        raise InputError(
            f"The graph '{graph.file}' takes and gives keys and values of every token, which would go through Triton "
            "with each token of each text, so it is not served by itself. `--backend python` serves text-generation, "
            "with the cache where it is computed; or export with --no-cache."
        )


def _of_graph(name: str, backend: str, tensors: Tensors, batch: int) -> dict[str, Any]:
    return {
        "name": name,
        "backend": backend,
        "max_batch_size": batch,
        "input": [tensor.declared(batch > 0) for tensor in tensors.inputs],
        "output": [tensor.declared(batch > 0) for tensor in tensors.outputs],
    }


def _batching(batch: int, options: ServingOptions, preferred: Sequence[int]) -> dict[str, Any]:
    if not batch:
        return {}
    delay = {"max_queue_delay_microseconds": options.max_queue_delay_us}
    return {"dynamic_batching": {"preferred_batch_size": preferred, **delay}}


def _parameters(values: Mapping[str, str]) -> list[Message]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def _graph_note(file: str, tensors: Tensors, batch: int) -> str:
    unbatched = tensors.unbatched()
    if unbatched is None:
        return f"{file}, arrays in and out, in batches of up to {batch} rows of one length"
    return f"{file}, arrays in and out; not batched by Triton, since '{unbatched.name}' has no batch axis"
