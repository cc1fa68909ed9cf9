"""Opening a bundle: its files checked, its tokenizer loaded and its session started, side by side."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.errors import BundleError, EngineError, InputError
from xlm_runtime.families import family_of
from xlm_runtime.filled_sizes import NOT_FILLED, Filling
from xlm_runtime.machine import user_cache_folder
from xlm_runtime.model.batching import BatchOptions
from xlm_runtime.model.choose import Chosen, choose, choose_graph
from xlm_runtime.model.filling import FilledSession
from xlm_runtime.model.full_logits import FullLogitsSession
from xlm_runtime.model.languages import LanguageNumbers
from xlm_runtime.model.model import BundleModel
from xlm_runtime.model.packing import INDEX_INPUTS, PackedSession
from xlm_runtime.processes import PerProcess
from xlm_runtime.providers import AUTO, DEFAULT_PROVIDER, PROVIDERS, Provider, find_provider
from xlm_runtime.sessions import GpuOptions, GraphSource, Session, open_session
from xlm_runtime.tasks import LAYOUTS, PAST, SEQLENS_K, find_task
from xlm_runtime.tokenization import XLMTokenizer

# what a pipeline can feed; a graph that was exported with further inputs is for other programs
_FED = ("input_ids", "attention_mask", "langs", "logit_positions", "p_mask", "cls_index")

EngineCache = str | Path | Literal[False] | None

T = TypeVar("T")


def open_model(
    folder: str | Path,
    task: str,
    *,
    provider: str | None = None,
    threads: int | None = None,
    precision: str | None = None,
    max_tokens: int | None = None,
    gpu: GpuOptions | None = None,
    engine_cache: EngineCache = None,
    cache_mb: float | None = None,
    graph: str | None = None,
) -> BundleModel:
    """Open a bundle for a task.

    The weights' hash is computed while the session loads them, and known before the first answer; on a machine that
    has read these files before, it is remembered (`remembered_sha256`).

    Args:
        folder: the bundle.
        task: the task the bundle must have been exported for.
        provider: see `open_session`; "auto" takes what `choose` finds. By default what it finds among the providers
            that the bundle was made for, and "cpu" with a bundle that was made for none.
        threads: see `open_session`.
        precision: which of the bundle's graphs, by its precision or recipe; by default its first.
        max_tokens: budget of one batch, see `plan_batches`; by default one that suits the provider.
        gpu: see `open_session`; with "auto" it matters where the chosen provider is on a GPU.
        engine_cache: folder for what is built on this machine, see `open_session`; with "auto" it matters where the
            chosen provider builds something. By default cpu keeps large graphs in the user's cache folder, if it can
            (`machine.user_cache_folder`); False for keeping none.
        cache_mb: see `XLMTokenizer`; None for its default.
        graph: the file of the graph, in place of `precision`; only with the name of a provider.

    Raises:
        BundleError: missing, changed or newer files, a failed verification.
        InputError: a bundle for another task, or an unknown provider or precision.
        MissingExtraError, EngineError: see `open_session`.
    """
    if provider not in (None, AUTO, *PROVIDERS):
        raise InputError(f"Unknown provider '{provider}'; expected one of {', '.join((*PROVIDERS, AUTO))}.")
    reopen = partial(
        open_model,
        Path(folder).absolute(),
        task,
        provider=provider,
        threads=threads,
        precision=precision,
        max_tokens=max_tokens,
        gpu=gpu,
        engine_cache=Path(engine_cache).absolute() if engine_cache else engine_cache,
        graph=graph,
        cache_mb=cache_mb,
    )
    bundle = Bundle.load(folder)
    if bundle.task != task:
        raise InputError(
            f"The bundle '{folder}' was exported for the task {bundle.task} ({bundle.architecture}), not for {task}. "
            f"Use pipeline('{bundle.task}', ...), or export the checkpoint with --task {task}."
        )
    asked = provider or (None if bundle.providers and graph is None else DEFAULT_PROVIDER)
    if asked is None or asked == AUTO:
        chosen = choose(bundle, precision, threads, gpu, bundle.providers if asked is None else None)
        gpu = gpu if PROVIDERS[chosen.provider].on_gpu else None
        engine_cache = engine_cache if PROVIDERS[chosen.provider].builds else False
    else:
        wanted = bundle.graph_of_file(graph) if graph else choose_graph(bundle, precision, asked, gpu)
        chosen = Chosen(asked, wanted, f"provider='{asked}' was asked for.")
    check_graph(chosen.graph, bundle)
    row = find_provider(chosen.provider)
    if chosen.graph.layout not in row.layouts:
        raise InputError(
            f"provider='{row.name}' takes {' or '.join(row.layouts)} graphs, and '{chosen.graph.file}' is "
            f"{chosen.graph.layout}. Choose another provider, or export with --layout {row.layouts[0]}."
        )
    budget = row.max_tokens[chosen.graph.layout] if max_tokens is None else max_tokens
    batching = BatchOptions(budget, packed=chosen.graph.is_packed, overlapped=row.on_gpu)
    tokenizer, weights_check = _load_beside(bundle, chosen.graph, row.reads_engines)
    try:
        session = open_session(
            GraphSource.of(bundle, chosen.graph),
            row.name,
            threads,
            gpu,
            _cache_folder(engine_cache, row),
            cache_required=engine_cache is not None,
        )
        _check_names(bundle, chosen.graph, session)
    except (EngineError, BundleError):
        weights_check.get().result()  # a damaged file is the better explanation
        raise
    captured = (gpu or GpuOptions()).captures(row, chosen.graph)
    filling = row.filling if captured or not row.on_gpu else NOT_FILLED
    session = padded_session(session, bundle, chosen.graph, filling)
    if find_task(bundle.architecture, task).kept == "logit_positions" and "logit_positions" not in session.input_names:
        session = FullLogitsSession(session)
    loaded = tokenizer.result()
    if cache_mb is not None:
        loaded.cache_mb = cache_mb
    return BundleModel(
        bundle,
        chosen.graph,
        provider=chosen.provider,
        reason=chosen.reason,
        session=session,
        tokenizer=loaded,
        languages=LanguageNumbers.of(bundle, loaded),
        batching=batching,
        weights_check=weights_check,
        reopen=reopen,
    )


def _cache_folder(engine_cache: EngineCache, provider: Provider) -> str | Path | None:
    if engine_cache is None and provider.keeps:
        folder = user_cache_folder()
        return folder and folder / "graphs"
    return engine_cache or None


def padded_session(session: Session, bundle: Bundle, graph: Graph, filling: Filling = NOT_FILLED) -> Session:
    """An opened graph that takes and gives padded arrays, whatever its layout.

    Args:
        filling: what batches are filled up to; by default nothing.
    """
    if not graph.is_packed:
        step = filling.padded_step
        return session if step == 1 else FilledSession(session, graph.inputs, graph.outputs, step)
    return PackedSession(session, graph.inputs, graph.outputs, bundle.config.summary_type, filling)


def check_graph(graph: Graph, bundle: Bundle) -> None:
    """Whether pipelines can feed a graph.

    Raises:
        BundleError: an unknown layout, or inputs that pipelines do not give.
    """
    if graph.layout not in LAYOUTS:
        raise BundleError(
            f"The graph '{graph.file}' of the bundle '{bundle.folder}' has the layout '{graph.layout}'; this version "
            f"reads {' and '.join(LAYOUTS)}. Upgrade xlm-onnx, or export it again."
        )
    names = [spec.name for spec in graph.inputs]
    past = [name for name in names if name.startswith(PAST)]
    fed = (*_FED, "position_ids", SEQLENS_K, *past) if past else _FED
    if graph.is_packed:
        fed = (*_FED, *INDEX_INPUTS)
    if bundle.task != "text-generation":  # where transformers gives none either
        fed = (*fed, "token_type_ids")
    foreign = [name for name in names if name not in fed]
    if foreign:
        raise BundleError(
            f"The graph '{graph.file}' of the bundle '{bundle.folder}' asks for {', '.join(foreign)}, which pipelines "
            "do not give. Export it again without --inputs, or feed it through open_session."
        )


def _check_names(bundle: Bundle, graph: Graph, session: Session) -> None:
    """Whether the graph has the inputs and outputs that `bundle.json` lists."""
    found = {"inputs": session.input_names, "outputs": session.output_names}
    for kind, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        listed = [spec.name for spec in specs]
        if sorted(listed) != sorted(found[kind]):
            raise BundleError(
                f"The graph '{graph.file}' of the bundle '{bundle.folder}' has the {kind} {', '.join(found[kind])}, "
                f"but bundle.json lists {', '.join(listed)}; export it again."
            )


def _load_beside(
    bundle: Bundle, graph: Graph, in_engine: bool
) -> tuple[Future[XLMTokenizer], PerProcess[Future[None]]]:
    """Check the small files, and begin to load the tokenizer and to hash the weights.

    The session reads the weights without holding Python's lock. Beside it the one is done after the other, not to take
    the cores from it.

    Args:
        in_engine: the weights are in a TensorRT engine, and their hash in its stamp.

    Raises:
        BundleError: a file is missing or has changed.
    """
    weights = [] if in_engine else bundle.files_of(graph)
    of_graphs = {name for each in bundle.graphs for name in bundle.files_of(each)}
    bundle.check_files([name for name in bundle.files if name not in of_graphs], remembered=True)
    for name in weights:
        bundle.path(name)
    if weights:
        bundle.check_weights_in(graph)
    tokenizer = _in_a_thread(partial(family_of(bundle.config).read_tokenizer, bundle.folder))

    def check_weights() -> None:
        wait((tokenizer,))
        bundle.check_files(weights, remembered=True)

    return tokenizer, PerProcess(lambda: _in_a_thread(check_weights))  # after a fork the session reads them again


def _in_a_thread(work: Callable[[], T]) -> Future[T]:
    executor = ThreadPoolExecutor(1, thread_name_prefix="xlm-open")
    future = executor.submit(work)
    executor.shutdown(wait=False)
    return future
