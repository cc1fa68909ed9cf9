"""One of a bundle's graphs against another, through their sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from xlm_export.batches import BatchMaker, own_texts
from xlm_export.verification.batches import VerificationCase
from xlm_export.verification.generations import generation_cases, steps
from xlm_export.verification.report import Limit, OutputError, VerificationReport, argmax_agrees, compare
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.families import family_of
from xlm_runtime.model.opening import padded_session
from xlm_runtime.sessions import Session
from xlm_runtime.tasks import Task, TensorSpec, find_task, graph_outputs

# The same graph, computed in another order: an activation that is rounded the other way is one step of 255 away, and
# such steps add up over the layers (measured: 1e-2 in four), while a wrong graph is as far off as its values are large.
SAME_INT8 = Limit(relative_error=1e-1, argmax_agreement=0.95)


@dataclass(frozen=True)
class _Outputs:
    task: Task
    outputs: tuple[TensorSpec, ...]


def verify_against(
    reference: Session,
    candidate: Session,
    bundle: Bundle,
    graph: Graph,
    provider: str,
    on_case: Callable[[str], None] | None = None,
) -> VerificationReport:
    """Hold `candidate` to the limits of its precision, with `reference`, the portable graph, in place of torch.

    Args:
        graph: the entry of both graphs, which have the same inputs and outputs.
        provider: what `candidate` runs on, for the report.
    """
    tokenizer = family_of(bundle.config).read_tokenizer(bundle.folder)
    errors = {spec.name: OutputError() for spec in graph.outputs}
    limit = SAME_INT8 if graph.precision == "int8" else None
    report = VerificationReport(graph.precision, provider, [], errors, limit)
    if graph.has_cache:
        for generation in generation_cases(graph.inputs, bundle.config, tokenizer):
            if on_case:
                on_case(generation.name)
            for want, got in zip(steps(reference, generation), steps(candidate, generation), strict=True):
                for name, error in report.outputs.items():
                    ours, theirs = got[name].astype(np.float32), want[name].astype(np.float32)
                    error.not_finite += int((~np.isfinite(ours)).sum())
                    error.add(ours, theirs)
                    if name == "logits":
                        error.add_choice(argmax_agrees(ours, theirs, report.limit.relative_error))
            report.cases.append(generation.name)
        return report
    task = find_task(bundle.architecture, bundle.task)
    packed = graph.is_packed
    outputs = _Outputs(task, graph_outputs(task, bundle.config, False, False) if packed else graph.outputs)
    reference, candidate = (padded_session(session, bundle, graph) for session in (reference, candidate))
    maker = BatchMaker(bundle, graph)
    for feed in [*maker.seeded(), *maker.texts(tokenizer, own_texts())]:
        case = VerificationCase(" × ".join(map(str, feed["attention_mask"].shape)), feed)
        if on_case:
            on_case(case.name)
        compare(report, outputs, case, candidate.run(feed), reference.run(feed))
        report.cases.append(case.name)
    return report
