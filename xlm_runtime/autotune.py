"""How long calls take on each graph of a bundle, with each provider of this machine: what provider "auto" goes by."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numpy as np

from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.bundle.timings import LeftOut, Record, Timing, replace_record
from xlm_runtime.errors import BundleError, EngineError, InputError, MissingExtraError
from xlm_runtime.generation.decoder import CachedDecoder, Prompt
from xlm_runtime.machine import available_cpus, check_threads, this_machine, visible_gpu
from xlm_runtime.model.model import BundleModel, TokenSequence
from xlm_runtime.model.opening import check_graph, open_model
from xlm_runtime.providers import PROVIDERS, Provider, is_installed, provider_packages
from xlm_runtime.sessions import Array

# Rounds go on for so long in all, but not fewer or more of them than this.
SECONDS = 12.0
_FEWEST, _MOST = 3, 40
# A session's threads spin for a while after a call, and would take the CPUs from the next one.
_SETTLE = 0.02

_PROMPT, _STEPS = 32, 16

Progress = Callable[[int], None]
"""Called with the per cent that are done."""


@dataclass(frozen=True)
class Workload:
    """Calls of one kind. `lengths` draws the tokens of each row of a batch; None for a generation with a cache."""

    name: str
    lengths: Callable[[random.Random], list[int]] | None

    def prepare(self, model: BundleModel, seed: int) -> Callable[[], object]:
        """A call with inputs of its own, the same for every model of a bundle with the same seed."""
        draw = random.Random(f"{self.name} {seed}")
        longest = model.config.max_position_embeddings
        if self.lengths is not None:
            rows = [_sequence(model, draw, min(each, longest)) for each in self.lengths(draw)]
            further = _further_inputs(model, rows)
            return lambda: model.run(rows, further)
        steps = min(_STEPS, max(longest - _PROMPT, 1))
        prompt = Prompt(_sequence(model, draw, min(_PROMPT, longest - steps)).input_ids, model.languages.default)
        return lambda: _generate(model, prompt, steps)


ENCODING = (
    Workload("1x16", lambda draw: [draw.randint(12, 20)]),
    Workload("1x128", lambda draw: [draw.randint(112, 128)]),
    Workload("8x10-128", lambda draw: [draw.randint(10, 128) for _ in range(8)]),
)
GENERATING = (Workload(f"{_PROMPT}+{_STEPS}", None),)


class _Candidate:
    """A graph on a provider, and the milliseconds of its calls by workload."""

    def __init__(self, graph: Graph, model: BundleModel) -> None:
        self.graph = graph
        self.model = model
        self.times: dict[str, list[float]] = {}
        self.failure: str | None = None

    def call(self, workload: Workload, seed: int) -> float | None:
        """Milliseconds of a call; None, and never again, once the session has failed."""
        if self.failure is not None:
            return None
        time.sleep(_SETTLE)
        try:
            run = workload.prepare(self.model, seed)
            began = time.perf_counter()
            run()
            return (time.perf_counter() - began) * 1000
        except EngineError as error:
            self.failure = str(error)
            return None


def measure(
    folder: str | Path,
    threads: int | None = None,
    seconds: float | None = None,
    progress: Progress = lambda percent: None,
) -> Record:
    """Time the graphs of a bundle on the providers that are installed and take them.

    Graphs of one precision or recipe are compared with one another, since "auto" never leaves it: they are open at the
    same time and take turns, round after round, with the same inputs, whose lengths differ from round to round.

    Args:
        threads: of a call on the CPU; by default as many as the CPUs that this process may use.
        seconds: for the rounds of all graphs together, by default 12; opening them and first calls come on top.

    Raises:
        InputError: no sensible number of threads, or nothing could be measured: no provider is installed.
        BundleError: a damaged bundle.
    """
    check_threads(threads)
    bundle = Bundle.load(folder)
    threads = available_cpus() if threads is None else threads
    gpu = visible_gpu()
    absent = {name: reason for name, row in PROVIDERS.items() if (reason := _absent(row, gpu is not None))}
    left_out = [LeftOut(None, provider, reason) for provider, reason in absent.items()]
    timings: list[Timing] = []
    groups = list(dict.fromkeys(graph.quality for graph in bundle.graphs))
    for done, quality in enumerate(groups):
        candidates: list[_Candidate] = []
        for graph in (graph for graph in bundle.graphs if graph.quality == quality):
            for provider, row in PROVIDERS.items():
                if provider in absent or not row.takes(graph.target, graph.layout, graph.precision):
                    continue
                try:
                    candidates.append(_open(bundle, graph, provider, threads))
                except (EngineError, MissingExtraError, _UnfedError) as error:
                    left_out.append(LeftOut(graph.file, provider, str(error)))

        def report(share: float, done: int = done) -> None:
            progress(round(100 * (done + share) / len(groups)))

        _measure_rounds(candidates, (SECONDS if seconds is None else seconds) / len(groups), report)
        for each in candidates:
            if each.failure is not None:
                left_out.append(LeftOut(each.graph.file, each.model.provider, each.failure))
                continue
            medians = {name: round(statistics.median(times), 4) for name, times in each.times.items()}
            timings.append(Timing(each.graph.file, bundle.digest(each.graph), each.model.provider, medians))
    if not timings:
        why = " ".join(f"{item.provider}: {item.reason}" for item in left_out)
        raise InputError(f"No graph of the bundle '{folder}' could be measured on this machine. {why}")
    machine = this_machine(threads, gpu[0] if gpu else None, provider_packages())
    return Record(machine, date.today().isoformat(), tuple(timings), tuple(left_out))


def keep(folder: str | Path, record: Record) -> None:
    """Put a record into `bundle.json`, in place of an earlier one of the same machine and threads.

    Raises:
        BundleError: the file cannot be written.
    """
    try:  # anew: something else may have been added to it meanwhile
        Bundle.update(folder, lambda bundle: replace(bundle, timings=replace_record(bundle, record)))
    except OSError as error:
        raise BundleError(
            f"The figures could not be kept: '{folder}' cannot be written ({error.strerror}). Run it on a copy of the "
            "bundle in a folder that can be, or name a provider other than auto."
        ) from error


class _UnfedError(Exception):
    """A graph that pipelines cannot feed, which is no damage."""


def _open(bundle: Bundle, graph: Graph, provider: str, threads: int) -> _Candidate:
    try:
        check_graph(graph, bundle)
    except BundleError as error:
        raise _UnfedError(str(error)) from error
    model = open_model(
        bundle.folder, bundle.task, provider=provider, threads=threads, graph=graph.file, engine_cache=False
    )
    model.check_weights()
    return _Candidate(graph, model)


def _absent(provider: Provider, gpu: bool) -> str | None:
    """Why a provider is not on this machine."""
    if provider.on_gpu:
        return None if gpu else "No CUDA device is visible."
    return None if is_installed(provider) else f"Not installed: pip install 'xlm-onnx[{provider.extra}]'"


def _measure_rounds(candidates: Sequence[_Candidate], seconds: float, report: Callable[[float], None]) -> None:
    """A first call of each workload, which is not counted, and then rounds until the time is over."""
    if not candidates:
        return
    workloads = GENERATING if candidates[0].model.has_cache else ENCODING
    for workload in workloads:
        for each in candidates:
            each.call(workload, -1)
    began = time.perf_counter()
    for done in _rounds(seconds, began):
        for workload in workloads:
            first = done % len(candidates)  # another one comes first in each round
            for each in (*candidates[first:], *candidates[:first]):
                taken = each.call(workload, done)
                if taken is not None:
                    each.times.setdefault(workload.name, []).append(taken)
        report(min(1.0, max((done + 1) / _MOST, (time.perf_counter() - began) / max(seconds, 1e-9))))
    report(1.0)


def _rounds(seconds: float, began: float) -> Iterator[int]:
    for done in range(_MOST):
        if done >= _FEWEST and time.perf_counter() - began >= seconds:
            return
        yield done


def _sequence(model: BundleModel, draw: random.Random, length: int) -> TokenSequence:
    """Random words of the vocabulary; its first entries are special ones."""
    words = model.config.vocab_size
    ids = [draw.randrange(min(20, words - 1), words) for _ in range(length)]
    return TokenSequence("", None, ids, model.languages.default)


def _further_inputs(model: BundleModel, rows: Sequence[TokenSequence]) -> dict[str, Array]:
    """What some graphs take beside the tokens: logits in the middle of each row, no forbidden answers, cls at 0."""
    longest = max(map(len, rows))
    made: dict[str, Array] = {
        "logit_positions": np.array([i * longest + len(row) // 2 for i, row in enumerate(rows)], np.int64),
        "p_mask": np.array([[float(i >= len(row)) for i in range(longest)] for row in rows], np.float32),
        "cls_index": np.zeros(len(rows), np.int64),
    }
    return {name: made[name] for name in made if name in model.session.input_names}


def _generate(model: BundleModel, prompt: Prompt, steps: int) -> None:
    """Greedy steps behind a prompt."""
    decoder = CachedDecoder(model, len(prompt) + steps)
    logits = decoder.start([prompt])
    for _ in range(steps):
        logits = decoder.step([0], [int(logits[0].argmax())])
