"""One of a bundle's graphs against another, through their sessions."""

from __future__ import annotations

import numpy as np

from xlm_export.progress import Steps
from xlm_export.verification.batches import SENTENCES, BatchMaker, VerificationCase
from xlm_export.verification.compare import argmax_agrees, compare
from xlm_export.verification.generations import generation_cases, run_case
from xlm_export.verification.report import VerificationReport
from xlm_export.verification.static_cache import prompt_and_steps, run_beside
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
    provider: str,
    steps: Steps | None = None,
    *,
    static_cache: bool = False,
) -> VerificationReport:
    """Hold `candidate` to the tolerance of its precision, with `reference`, the portable graph, in place of torch.

    Args:
        graph: the entry of both graphs, which have the same inputs and outputs; of `reference` where they have not.
        provider: what `candidate` runs on, for the report.
        steps: told of each case.
        static_cache: `candidate` has the inputs and outputs of `tasks.static_cache_specs`.
    """
    steps = steps or Steps()
    tokenizer = family_of(bundle.config).read_tokenizer(bundle.folder)
    task = find_task(bundle.architecture, bundle.task)
    report = VerificationReport.of(graph.precision, provider, graph.outputs)
    if graph.has_cache:
        generations = generation_cases(graph.inputs, bundle.config, tokenizer, no_lang=bundle.knows_no_lang)
        steps.expect(len(generations))
        for generation in generations:
            steps(f"verify {generation.name}")
            if static_cache:
                if (fitting := prompt_and_steps(generation)) is not None:
                    for want, got, follows in run_beside(reference, candidate, fitting):
                        _compare_step(report, task, got, want)
                        report.outputs["logits"].add_choice(follows)
                    report.cases.append(generation.name)
                continue
            for want, got in zip(run_case(reference, generation), run_case(candidate, generation), strict=True):
                _compare_step(report, task, got, want)
            report.cases.append(generation.name)
        return report
    outputs = graph_outputs(task, bundle.config, False, False) if graph.is_packed else graph.outputs
    reference, candidate = (padded_session(session, bundle, graph) for session in (reference, candidate))
    maker = BatchMaker.of(bundle, graph)
    texts = [
        VerificationCase(_shape(feed), feed)
        for feed in maker.texts(tokenizer, LanguageNumbers.of(bundle, tokenizer), SENTENCES)
    ]
    cases = [*maker.seeded(), *texts]
    steps.expect(len(cases))
    for case in cases:
        steps(f"verify {case.name}")
        compare(report, task, outputs, case, candidate.run(case.inputs), reference.run(case.inputs))
        report.cases.append(case.name)
    return report


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
