"""How far a graph's answers are from the fp32 graph's: the same choice, and the divergence of their probabilities."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xlm_export.quantization.texts import Text
from xlm_export.verification.batches import BatchMaker
from xlm_export.verification.generations import GenerationCase, generation_cases, run_case
from xlm_export.verification.report import OutputError
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.families import family_of
from xlm_runtime.model.languages import LanguageNumbers
from xlm_runtime.numerics import log_softmax
from xlm_runtime.sessions import Array, Session
from xlm_runtime.tasks import PRESENT, Beam, Task, find_task

Work = Mapping[str, Array] | GenerationCase
_LEAST_PROBABILITY = 1e-9
_PADDING = -1e4  # the score of padding, in both


@dataclass
class Quality:
    """Against fp32, over all rows that choose among answers.

    `same_choice` is the share of rows with the same best answer, None for a graph that gives only vectors.
    `divergence` is the mean Kullback-Leibler divergence KL(fp32 || graph) of a row's probabilities, in nats; for
    vectors the mean of 1 - cosine. `errors` are those of each output, as in verification.
    """

    task: Task
    errors: dict[str, OutputError] = field(default_factory=dict)
    _same: list[Array] = field(default_factory=list, repr=False)
    _divergence: list[Array] = field(default_factory=list, repr=False)

    @property
    def same_choice(self) -> float | None:
        return float(np.concatenate(self._same).mean()) if self._same else None

    @property
    def divergence(self) -> float:
        return float(np.concatenate(self._divergence).mean()) if self._divergence else 0.0

    @property
    def finite(self) -> bool:
        return not any(error.not_finite for error in self.errors.values())

    def to_dict(self) -> dict[str, Any]:
        """What the bundle's report keeps."""
        values = {name: error.to_dict() for name, error in self.errors.items()}
        return {"same_choice": self.same_choice, "divergence": self.divergence, **values}

    def add(self, got: Mapping[str, Array], want: Mapping[str, Array], mask: Array | None) -> None:
        """Take in the outputs of one call; `mask`, (…, sequence), says which tokens are real."""
        for name, theirs in want.items():
            ours = got[name]
            if theirs.dtype.kind != "f" or name.startswith(PRESENT):
                continue
            error = self.errors.setdefault(name, OutputError())
            error.not_finite += int((~np.isfinite(ours)).sum())
            if mask is not None and theirs.shape == mask.shape:  # scores over the tokens of a row
                error.add(ours[mask], theirs[mask])
                ours, theirs = np.where(mask, ours, _PADDING), np.where(mask, theirs, _PADDING)
            else:
                if mask is not None and theirs.shape[: mask.ndim] == mask.shape:
                    ours, theirs = ours[mask], theirs[mask]
                error.add(ours, theirs)
            if name in self.task.scores:
                self._add_scores(_rows(ours), _rows(theirs))
            elif name in self.task.vectors:
                self._divergence.append(1 - _cosine(ours, theirs))
        for beam in self.task.beams:
            if beam.index in want:
                self._add_beam(got, want, beam)

    def _add_scores(self, ours: Array, theirs: Array) -> None:
        if theirs.shape[-1] < 2 or not len(theirs):
            return
        self._same.append(ours.argmax(-1) == theirs.argmax(-1))
        p, q = log_softmax(theirs), log_softmax(ours)
        self._divergence.append((np.exp(p) * (p - q)).sum(-1))

    def _add_beam(self, got: Mapping[str, Array], want: Mapping[str, Array], beam: Beam) -> None:
        """Of the listed candidates; one that the graph does not list is as probable there as its last one at most."""
        index, probability = beam.index, beam.probability
        if beam.starts is not None:  # the ends of the best start
            starts = want[beam.starts].shape[1]
            got, want = ({name: values[name][:, ::starts] for name in (index, probability)} for values in (got, want))
        self._same.append(got[index][:, 0] == want[index][:, 0])
        rows = []
        for ids, p, our_ids, our_p in zip(want[index], want[probability], got[index], got[probability], strict=True):
            ours = {int(i): float(v) for i, v in zip(our_ids[::-1], our_p[::-1], strict=True)}
            q = np.array([ours.get(int(i), float(our_p.min())) for i in ids])
            p, q = np.maximum(p, _LEAST_PROBABILITY), np.maximum(q, _LEAST_PROBABILITY)
            p, q = p / p.sum(), q / q.sum()
            rows.append(float((p * np.log(p / q)).sum()))
        self._divergence.append(np.array(rows))


@dataclass(frozen=True)
class Trial:
    """What graphs are compared on: batches, or whole generations for a graph with a cache."""

    task: Task
    work: Sequence[Work]
    source: str

    @classmethod
    def of(cls, bundle: Bundle, graph: Graph, texts: Sequence[Text], source: str) -> Trial:
        """From texts."""
        tokenizer = family_of(bundle.config).read_tokenizer(bundle.folder)
        task, sentences = find_task(bundle.architecture, bundle.task), [item.text for item in texts]
        if graph.has_cache:
            chosen = None if source == "own" else sentences
            return cls(
                task,
                generation_cases(
                    graph.inputs, bundle.config, tokenizer, sentences=chosen, no_lang=bundle.knows_no_lang
                ),
                source,
            )
        langs = [item.lang for item in texts]
        return cls(
            task,
            BatchMaker.of(bundle, graph).texts(tokenizer, LanguageNumbers.of(bundle, tokenizer), sentences, langs),
            source,
        )

    def answers(self, session: Session) -> Iterator[tuple[dict[str, Array], Array | None]]:
        """A session's outputs of every call, and the mask of its tokens. Each keeps its own cache."""
        for item in self.work:
            if isinstance(item, GenerationCase):
                for outputs in run_case(session, item):
                    yield outputs, None
            else:
                yield session.run(item), item["attention_mask"] != 0

    def quality(self, reference: Sequence[tuple[dict[str, Array], Array | None]], session: Session) -> Quality:
        """`session` against the answers of another."""
        quality = Quality(self.task)
        for (want, mask), (got, _) in zip(reference, self.answers(session), strict=True):
            quality.add(got, want, mask)
        return quality


def median_milliseconds(sessions: Sequence[Session], trial: Trial, calls: int = 5) -> list[float]:
    """Median time of a pass over the first piece of work, for each session in turn, after one pass to warm up."""
    once = replace(trial, work=trial.work[:1])
    times: list[list[float]] = [[] for _ in sessions]
    for call in range(calls + 1):
        for session, taken in zip(sessions, times, strict=True):
            began = time.perf_counter()
            for _ in once.answers(session):
                pass
            if call:
                taken.append(time.perf_counter() - began)
    return [statistics.median(taken) * 1e3 for taken in times]


class RecordingSession:
    """A session that keeps the inputs of its calls in `feeds`, until it is told to `stop`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.feeds: list[dict[str, Array]] = []
        self._recording = True

    @property
    def input_names(self) -> tuple[str, ...]:
        return self.session.input_names

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.session.output_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        if self._recording:
            self.feeds.append(dict(inputs))
        return self.session.run(inputs)

    def stop(self) -> None:
        """Keep no further inputs."""
        self._recording = False


def _rows(scores: Array) -> Array:
    return scores.reshape(-1, scores.shape[-1]).astype(np.float64)


def _cosine(ours: Array, theirs: Array) -> Array:
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    cosine: Array = (ours * theirs).sum(-1) / np.maximum(lengths, 1e-12)
    return cosine.reshape(-1)
