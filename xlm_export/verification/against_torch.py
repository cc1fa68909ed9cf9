"""Torch against the graph: the same inputs through both, and how far the outputs are apart.

A graph with a cache is held against torch without one. In a causal model a token's scores depend on the tokens before
it only. So one uncached pass of torch over a whole sequence gives what each step of its generation has to give, and the
keys and values after each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from xlm_export.bundle_writer import exported_graph
from xlm_export.progress import Steps
from xlm_export.tracing.graph import ExportGraph
from xlm_export.verification.batches import BatchMaker, VerificationCase
from xlm_export.verification.compare import argmax_agrees, compare
from xlm_export.verification.generations import GenerationCase, generation_cases, kept_positions, run_case
from xlm_export.verification.report import VerificationReport
from xlm_runtime.bundle import Bundle
from xlm_runtime.model.languages import NO_LANG
from xlm_runtime.model.opening import padded_session
from xlm_runtime.providers import verifying_provider
from xlm_runtime.sessions import GraphSource, Session, open_session
from xlm_runtime.tokenization import XLMTokenizer


def verify_bundle(
    bundle: Bundle, graph: ExportGraph, tokenizer: XLMTokenizer, steps: Steps | None = None
) -> VerificationReport:
    """Run the bundle's exported graph beside torch's model, which is always fed the padded layout."""
    entry = exported_graph(bundle)
    provider = verifying_provider(entry.precision)
    steps = steps or Steps()
    steps.expect(1)
    steps(f"open the graph on {provider}")
    session = open_session(GraphSource.of(bundle, entry), provider)
    if graph.cache:
        generations = generation_cases(graph.inputs, graph.model.config, tokenizer, no_lang=bundle.knows_no_lang)
        if any(spec.name == "inputs_embeds" for spec in graph.inputs):
            generations = [with_embeddings(case, graph) for case in generations]
        return verify_graph(graph, session, generations, entry.precision, provider, steps)
    session = padded_session(session, bundle, entry)
    padded = graph.padded()
    maker = BatchMaker(
        [spec.name for spec in padded.inputs],
        bundle.config,
        choices="num_choices" in padded.task.rows,
        no_lang=bundle.knows_no_lang,
        arbitrary=True,
        embed=partial(graph_embeddings, padded),
    )
    cases = [*maker.seeded(mixed=entry.is_packed), *maker.sentences(tokenizer)]
    return verify_graph(padded, session, cases, entry.precision, provider, steps)


def verify_graph(
    reference: ExportGraph,
    session: Session,
    cases: Sequence[VerificationCase | GenerationCase],
    precision: str,
    provider: str,
    steps: Steps | None = None,
) -> VerificationReport:
    """Run every case through torch in float32 and through the session.

    Args:
        reference: the float32 model, with the graph's inputs and outputs.
        cases: batches, or generations for a graph with a cache.
        steps: told of each case.
    """
    steps = steps or Steps()
    steps.expect(len(cases))
    report = VerificationReport.of(precision, provider, reference.outputs)
    for case in cases:
        steps(f"verify {case.name}")
        if isinstance(case, GenerationCase):
            _add_generation(report, reference, session, case)
            shape = " × ".join(map(str, case.inputs["attention_mask"].shape))
            report.cases.append(f"{case.name} ({len(case.pieces)} steps of {shape})")
        else:
            _add_batch(report, reference, session, case)
            report.cases.append(case.name)
    return report


def _add_batch(report: VerificationReport, reference: ExportGraph, session: Session, case: VerificationCase) -> None:
    given = {name: torch.from_numpy(value) for name, value in case.inputs.items()}
    if "langs" in given and bool((given["langs"] == NO_LANG).all()):
        del given["langs"]  # as one calls transformers
    with torch.inference_mode():
        tensors = reference(given)
    want = {spec.name: tensor.numpy() for spec, tensor in zip(reference.outputs, tensors, strict=True)}
    compare(report, reference.task, reference.outputs, case, session.run(case.inputs), want)


def _add_generation(report: VerificationReport, reference: ExportGraph, session: Session, case: GenerationCase) -> None:
    """Every step, compared with torch's uncached pass."""
    want, start = uncached_outputs(reference, case.inputs), 0
    for size, got in zip(case.pieces, run_case(session, case), strict=True):
        mask = case.inputs["attention_mask"][:, : start + size] != 0
        kept = kept_positions(mask[:, start:])
        logits = _logits(reference, want["hidden"][kept // size, kept % size + start])
        _compare_step(report, reference, got, want | dict.fromkeys(reference.task.scores, logits), mask)
        start += size


def _compare_step(
    report: VerificationReport,
    reference: ExportGraph,
    got: dict[str, np.ndarray],
    want: dict[str, np.ndarray],
    mask: np.ndarray,
) -> None:
    """Add one step: its logits, and everything else at the real tokens of `mask`, (batch, past + new tokens)."""
    end = mask.shape[1]
    for spec in reference.outputs:
        error = report.outputs[spec.name]
        ours = got[spec.name].astype(np.float32)
        error.not_finite += int((~np.isfinite(ours)).sum())
        if spec.name in reference.task.scores:
            error.add(ours, want[spec.name])
            error.add_choice(argmax_agrees(ours, want[spec.name], report.tolerance.relative_error))
        elif spec.axes[-1] == "emb_dim":  # (batch, sequence, emb_dim)
            start = end - ours.shape[1]
            real = mask[:, start:]
            error.add(ours[real], want[spec.name][:, start:end][real])
        elif spec.axes[-1] == "head_dim":  # (batch, n_heads, sequence, head_dim)
            start = end - ours.shape[2]
            real, theirs = mask[:, start:], want[spec.name][:, :, start:end]
            error.add(ours.swapaxes(1, 2)[real], theirs.swapaxes(1, 2)[real])
        else:  # attentions, (batch, n_heads, sequence, room + sequence), 0 in the room behind the past
            start = end - ours.shape[2]
            theirs = np.zeros_like(ours)
            theirs[..., :start] = want[spec.name][:, :, start:end, :start]
            theirs[..., ours.shape[3] - ours.shape[2] :] = want[spec.name][:, :, start:end, start:end]
            real = mask[:, start:]
            error.add(ours.swapaxes(1, 2)[real], theirs.swapaxes(1, 2)[real])


def uncached_outputs(reference: ExportGraph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What float32 torch gives for the whole sequence at once: "hidden" (batch, total, emb_dim), from a pass that knows
    no cache, and the graph's other outputs by name."""
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    batch, total = inputs["attention_mask"].shape
    config = reference.model.config
    empty = torch.zeros((batch, config.n_heads, 0, config.head_dim))
    past = {spec.name: empty for spec in reference.inputs if "past_sequence" in spec.axes}
    with torch.inference_mode():
        hidden: Tensor = reference.model.body(**tensors).last_hidden_state
        outputs = reference({**tensors, **past, "logit_positions": torch.arange(batch * total)[:1]})
    named = {spec.name: tensor.numpy() for spec, tensor in zip(reference.outputs, outputs, strict=True)}
    return {**named, "hidden": hidden.numpy()}


def _logits(reference: ExportGraph, hidden: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return reference.model.project(torch.from_numpy(hidden)).numpy()


def with_embeddings(case: GenerationCase, graph: ExportGraph) -> GenerationCase:
    """The case for a graph that takes `inputs_embeds` in place of `input_ids`."""
    inputs = {name: value for name, value in case.inputs.items() if name != "input_ids"}
    return replace(case, inputs={**inputs, "inputs_embeds": graph_embeddings(graph, case.inputs["input_ids"])})


def graph_embeddings(graph: ExportGraph, input_ids: np.ndarray) -> np.ndarray:
    """(batch, sequence, emb_dim) float32: the word embeddings of `input_ids`."""
    table = graph.model.word_embeddings.detach().numpy()
    return np.asarray(table[input_ids])
