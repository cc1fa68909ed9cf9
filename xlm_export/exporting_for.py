"""A checkpoint becomes a bundle for a use: export, quantise, rewrite, build and slim, as the table `uses` has it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from xlm_export.bundle_folder import check_place, write_bundle
from xlm_export.errors import VerificationError
from xlm_export.exporting import export
from xlm_export.optimization import optimize
from xlm_export.optimization.passes import chosen_passes
from xlm_export.progress import Progress, Steps
from xlm_export.quantization import RECIPES, Limits, Quantized, quantize
from xlm_export.quantization.quality import Trial, median_milliseconds
from xlm_export.quantization.quantizer import NO_LIMITS
from xlm_export.quantization.texts import calibration_texts
from xlm_export.slimming import copy_graphs
from xlm_export.uses import Use, find_use
from xlm_runtime.bundle import LANGS_INPUT, Bundle, Graph
from xlm_runtime.errors import InputError
from xlm_runtime.filled_sizes import NOT_FILLED, Filling
from xlm_runtime.machine import visible_gpu
from xlm_runtime.model.choose import has_device
from xlm_runtime.model.opening import padded_session
from xlm_runtime.providers import PROVIDERS, Provider, is_installed
from xlm_runtime.sessions import GraphSource, open_session


@dataclass(frozen=True)
class Choice:
    """What was chosen, why, and what was measured of it; "" for nothing."""

    what: str
    chosen: str
    reason: str
    measured: str = ""


@dataclass(frozen=True)
class Timed:
    """The median of a call on the first batch of the calibration texts, on this machine."""

    title: str
    provider: str
    milliseconds: float


@dataclass(frozen=True)
class ExportedFor:
    """What was made: the bundle, each choice, times of a batch, and what is left to do on another machine."""

    bundle: Bundle
    choices: tuple[Choice, ...]
    times: tuple[Timed, ...]
    left_to_do: tuple[str, ...]


def export_for(
    checkpoint: str | Path,
    bundle: str | Path,
    use: str,
    *,
    task: str | None = None,
    cls_index: str = "first-sep",
    langs: str = LANGS_INPUT,
    default_lang: str | None = None,
    tokenizer: str | Path | None = None,
    codes: str | Path | None = None,
    vocab: str | Path | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    calibration: str | Path | None = None,
    data: str | Path | None = None,
    limits: Limits = NO_LIMITS,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportedFor:
    """Export a checkpoint, and make of it what a use takes. The folder appears whole or not at all.

    Args:
        checkpoint, bundle: as for `export`.
        use: a name out of `USES`.
        task, cls_index, langs, default_lang, tokenizer, codes, vocab, revision, subfolder: see `export`.
        calibration, data, limits: see `quantize`; only for uses that quantise.
        force: replace a bundle that is already there, with all its graphs.
        progress: see `Progress`.

    Raises:
        InputError, CheckpointError, VerificationError: see `export` and `quantize`; no recipe is within its limit.
        EngineError: see `build_engine`.
    """
    row, target = find_use(use), Path(bundle)
    if not row.recipes and (calibration is not None or data is not None or limits != NO_LIMITS):
        raise InputError(f"--for {use} quantises nothing; leave out texts for calibration, labelled data and limits.")
    check_place(target, force)
    with write_bundle(target, force) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as work:
        whole = Path(work) / "bundle"
        try:
            made = export(
                checkpoint,
                whole,
                task=task,
                precision=row.precision,
                layout=row.layout,
                cls_index=cls_index,
                langs=langs,
                default_lang=default_lang,
                tokenizer=tokenizer,
                codes=codes,
                vocab=vocab,
                revision=revision,
                subfolder=subfolder,
                progress=progress,
            )
        except VerificationError as error:
            table = str(error).partition("\n")[2]
            raise VerificationError(
                f"The exported graph failed its verification; no bundle was written.\n{table}"
            ) from error
        source = made.graph()
        texts = calibration_texts(made, calibration)
        trial = Trial.of(made, source, texts, "own" if calibration is None else str(calibration))
        choices = [_layout(row, source, trial)]
        kept = source
        if row.recipes:
            kept, chosen = _quantize(whole, use, row, source, calibration, data, limits, progress)
            choices += [chosen, _texts(trial, len(texts))]
        graphs = [kept]
        if row.target is not None:
            further, chosen = _optimize(whole, row.target, kept, progress)
            choices.append(chosen)
            # ONNX Runtime's own stands beside the graph that OpenVINO takes; on a GPU it stands alone
            graphs = [kept, *further] if row.recipes else further or [kept]
        left_to_do: list[str] = []
        if row.engine:
            chosen, left_to_do = _engine(whole, target, progress)
            choices.append(chosen)
        elif row.precision == "fp16" and not _gpu_is_here():
            left_to_do = ["this machine has no GPU: run it, and xlm-runtime autotune, on one that has"]
        steps = Steps(progress, 1)
        full = Bundle.load(whole)
        providers = (row.providers or {}).get(kept.recipe, ())
        slim = replace(copy_graphs(full, graphs, folder), providers=providers)
        slim.write()
        choices.append(_default(slim, full))
        steps("measure the time")
        times = _times(full, [source, *(graph for graph in graphs if graph != source)], providers, trial)
    return ExportedFor(replace(slim, folder=target), tuple(choices), times, tuple(left_to_do))


def _layout(row: Use, source: Graph, trial: Trial) -> Choice:
    if source.has_cache:
        return Choice("layout", source.layout, "the graph keeps a cache, a step of which has no padding to leave out")
    masks = [item["attention_mask"] for item in trial.work if isinstance(item, Mapping)]
    tokens, places = (sum(int(number) for number in numbers) for numbers in (
        [mask.sum() for mask in masks], [mask.size for mask in masks]))  # fmt: skip
    measured = f"{tokens:,} tokens in place of {places:,} on the texts" if source.is_packed else ""
    return Choice("layout", source.layout, row.layout_reason, measured)


def _quantize(
    whole: Path,
    use: str,
    row: Use,
    source: Graph,
    calibration: str | Path | None,
    data: str | Path | None,
    limits: Limits,
    progress: Progress | None,
) -> tuple[Graph, Choice]:
    """Add the recipes' graphs to the bundle; returns the one to keep."""
    made: list[Quantized] = []
    refused: list[str] = []
    for recipe in row.cached_recipes if source.has_cache else row.recipes:
        try:
            made.append(quantize(whole, recipe, calibration=calibration, data=data, limits=limits, progress=progress))
        except VerificationError as error:
            refused.append(str(error))
            continue
        if not row.smallest:
            break
    if not made:
        raise VerificationError(
            f"--for {use} makes no bundle of this checkpoint. {' '.join(refused)} Give texts like yours "
            "(--calibration), other limits, or --for portable."
        )
    sizes = {item.graph.file: _megabytes(item.bundle, item.graph) for item in made}
    best = min(made, key=lambda item: sizes[item.graph.file])
    others = [f"{item.graph.quality} has {sizes[item.graph.file]:.1f} MB" for item in made if item is not best]
    report = best.report
    most = RECIPES[best.graph.quality].max_divergence if limits.max_divergence is None else limits.max_divergence
    in_fp32 = f", in fp32 {', '.join(report['in_fp32'])}" if report["in_fp32"] else ""
    metric = ""
    if "metric" in report:
        name, value, before = (report["metric"][key] for key in ("name", "quantized", "fp32"))
        metric = f", {name} {value:.4g} in place of {before:.4g}"
    return best.graph, Choice(
        "recipe",
        best.graph.quality,
        "; ".join([RECIPES[best.graph.quality].summary, *others, *refused]),
        f"{sizes[best.graph.file]:.1f} MB in place of {_megabytes(best.bundle, source):.1f}, divergence from fp32 "
        f"{report['divergence']:.2g} of at most {most:g}{in_fp32}{metric}",
    )


def _texts(trial: Trial, count: int) -> Choice:
    if trial.source == "own":
        return Choice("texts", "own", f"the {count} of verification, which is little: --calibration FILE takes yours")
    return Choice("texts", trial.source, f"{count} texts to calibrate and compare on")


def _optimize(whole: Path, target: str, graph: Graph, progress: Progress | None) -> tuple[list[Graph], Choice]:
    try:
        passes = chosen_passes(graph, Bundle.load(whole).config, target, None)
    except InputError as error:  # such as a model with ReLU, which has no GELU to rewrite
        return [], Choice("target", "none", str(error))
    made = optimize(whole, target, precision=graph.quality, progress=progress)
    return [made.graph], Choice("target", target, f"rewritten by {', '.join(passes)}")


def _engine(whole: Path, target: Path, progress: Progress | None) -> tuple[Choice, list[str]]:
    """Build with the module that can build here, if there is one."""
    from xlm_export.engines import build_engine

    there = f"on the machine with the GPU: xlm-export engine {target}"
    flavor = "tensorrt" if _gpu_is_here() and find_spec("tensorrt") else "tensorrt-rtx"
    if flavor == "tensorrt-rtx" and not find_spec("tensorrt_rtx"):
        return Choice("engine", "none", "neither TensorRT with its GPU nor TensorRT-RTX is here"), [there]
    stamp, report = build_engine(whole, flavor=flavor, progress=progress)
    chosen = Choice(
        "engine",
        f"{stamp.flavor} {stamp.version}",
        f"for {', '.join(stamp.gpu_archs)}",
        f"{report.plan_bytes / 1e6:.1f} MB, built in {report.seconds:.1f} s",
    )
    return chosen, [] if flavor == "tensorrt" else [f"{there} --flavor tensorrt, where TensorRT itself is to be used"]


def _default(slim: Bundle, full: Bundle) -> Choice:
    left = [graph.file for graph in full.graphs if graph.file not in slim.files]
    tried = f"opened by the first of {', '.join(slim.providers)} that is there" if slim.providers else "opened by cpu"
    sizes = [sum(each.path(name).stat().st_size for name in each.files) / 1e6 for each in (slim, full)]
    measured = f"the bundle has {sizes[0]:.1f} MB in place of {sizes[1]:.1f}, without {', '.join(left)}" if left else ""
    return Choice("default", slim.graphs[0].quality, tried, measured or f"the bundle has {sizes[0]:.1f} MB")


def _times(bundle: Bundle, graphs: Sequence[Graph], providers: Sequence[str], trial: Trial) -> tuple[Timed, ...]:
    """Each graph with each provider that takes it and is here, in turns; the first graph in ONNX Runtime, too."""
    rows = [PROVIDERS[name] for name in dict.fromkeys(("cpu", *providers))]
    runs = [(graph, row) for graph in graphs for row in rows if _runs(graph, row)]
    sessions = [
        padded_session(open_session(GraphSource.of(bundle, graph), row.name), bundle, graph, _filling(row))
        for graph, row in runs
    ]
    figures = median_milliseconds(sessions, trial)
    return tuple(Timed(graph.title, row.name, figure) for (graph, row), figure in zip(runs, figures, strict=True))


def _runs(graph: Graph, row: Provider) -> bool:
    """Whether a graph can be timed here with a provider; engines are not."""
    if row.reads_engines or not row.takes(graph.target, graph.layout, graph.precision) or not is_installed(row):
        return False
    return not row.on_gpu or has_device(row, visible_gpu())


def _filling(row: Provider) -> Filling:
    """As pipelines fill batches up; on a GPU only where calls are captured, which these are not."""
    return NOT_FILLED if row.on_gpu else row.filling


def _gpu_is_here() -> bool:
    return visible_gpu() is not None


def _megabytes(bundle: Bundle, graph: Graph) -> float:
    return sum(bundle.path(name).stat().st_size for name in bundle.files_of(graph)) / 1e6
