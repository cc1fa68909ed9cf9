"""One of a bundle's graphs against another, through their sessions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xlm_export.progress import Steps
from xlm_export.verification.batches import SENTENCES, BatchMaker, VerificationCase
from xlm_export.verification.compare import argmax_agrees, compare
from xlm_export.verification.generations import GenerationCase, generation_cases, run_case
from xlm_export.verification.report import VerificationReport
from xlm_export.verification.static_cache import prompts_and_steps, run_beside
from xlm_runtime.bundle import Bundle, Graph
from xlm_runtime.families import family_of
from xlm_runtime.model.languages import LanguageNumbers
from xlm_runtime.model.opening import padded_session
from xlm_runtime.sessions import Session
from xlm_runtime.tasks import Task, find_task, graph_outputs


def verify_against(
    reference: Session,
    candidate: Session,
    bundle: Bundle,
    graph: Graph,
    made: Graph,
    provider: str,
    steps: Steps | None = None,
) -> VerificationReport:
    """Hold `candidate` to the tolerance of its precision, with `reference`, the portable graph, in place of torch.

    Args:
        graph, made: the entries of reference and candidate, which may take a packed batch's indices in other forms, or
            have a static cache.
        provider: what `candidate` runs on, for the report.
        steps: told of each case.
    """
    steps = steps or Steps()
    task = find_task(bundle.architecture, bundle.task)
    report = VerificationReport.of(graph.precision, provider, graph.outputs)
    cases = _cases(bundle, graph)
    if made.has_static_cache:
        cases = prompts_and_steps(case for case in cases if isinstance(case, GenerationCase))
    steps.expect(len(cases))
    outputs = graph_outputs(task, bundle.config, False, False) if graph.is_packed else graph.outputs
    if not graph.has_cache:
        reference, candidate = padded_session(reference, bundle, graph), padded_session(candidate, bundle, made)
    for case in cases:
        steps(f"verify {case.name}")
        if isinstance(case, GenerationCase) and made.has_static_cache:
            for want, got, follows in run_beside(reference, candidate, case):
                _compare_step(report, task, got, want)
                report.outputs["logits"].add_choice(follows)
        elif isinstance(case, GenerationCase):
            for want, got in zip(run_case(reference, case), run_case(candidate, case), strict=True):
                _compare_step(report, task, got, want)
        else:
            compare(report, task, outputs, case, candidate.run(case.inputs), reference.run(case.inputs))
        report.cases.append(case.name)
    return report


def outputs_of(session: Session, bundle: Bundle, graph: Graph) -> Iterator[dict[str, np.ndarray]]:
    """What a session gives for each batch of the verification, or each step of its generations.

    Args:
        graph: the entry of what the session has opened, which may have further outputs.
    """
    if not graph.has_cache:
        session = padded_session(session, bundle, graph)
    for case in _cases(bundle, graph):
        if isinstance(case, GenerationCase):
            yield from run_case(session, case)
        else:
            yield session.run(case.inputs)


def _cases(bundle: Bundle, graph: Graph) -> list[VerificationCase] | list[GenerationCase]:
    """Seeded batches and texts, or for a graph with a cache generations."""
    tokenizer = family_of(bundle.config).read_tokenizer(bundle.folder)
    if graph.has_cache:
        return generation_cases(graph.inputs, bundle.config, tokenizer, no_lang=bundle.knows_no_lang)
    maker = BatchMaker.of(bundle, graph)
    texts = maker.texts(tokenizer, LanguageNumbers.of(bundle, tokenizer), SENTENCES)
    return [*maker.seeded(mixed=graph.is_packed), *(VerificationCase(_shape(feed), feed) for feed in texts)]


def _shape(feed: dict[str, np.ndarray]) -> str:
    return " × ".join(map(str, feed["attention_mask"].shape))


def _compare_step(
    report: VerificationReport, task: Task, got: dict[str, np.ndarray], want: dict[str, np.ndarray]
) -> None:
    """Add one step of a generation: every value of every output."""
    for name, error in report.outputs.items():
        ours, theirs = got[name].astype(np.float32), want[name].astype(np.float32)
        error.not_finite += int((~np.isfinite(ours)).sum())
        error.add(ours, theirs)
        if name in task.scores:
            error.add_choice(argmax_agrees(ours, theirs, report.tolerance.relative_error))
