"""A graph with a cache against torch without one: whole generations, in steps, through the graph alone.

In a causal model a token's scores depend on the tokens before it only. So one uncached pass of torch over a whole
sequence gives what each step of its generation has to give, and the keys and values after each step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from xlm_export.tracing.graph import ExportGraph
from xlm_export.verification.batches import SENTENCES, graph_embeddings
from xlm_export.verification.report import OutputError, VerificationReport, argmax_agrees
from xlm_runtime.config import XLMConfig
from xlm_runtime.model.cache import CHUNK, KeyValueCache
from xlm_runtime.sessions import Session
from xlm_runtime.tasks import TensorSpec
from xlm_runtime.tokenization import XLMTokenizer

# Single-token steps of the longest case; the steps before them are taken at once.
MOST_STEPS = 48
MOST_LOGIT_POSITIONS = 32


@dataclass(frozen=True)
class GenerationCase:
    """A batch that is fed in pieces.

    `inputs` are the graph's over the whole generation, (batch, total), rows with shorter prompts padded on the left;
    `pieces` are the numbers of tokens of each step, `total` in all; `past` is the cache that it begins with, which
    grows by chunks of 1 (no room behind the past) or more.
    """

    name: str
    inputs: dict[str, np.ndarray]
    pieces: tuple[int, ...]
    past: KeyValueCache


def generation_cases(
    graph_inputs: Sequence[TensorSpec],
    config: XLMConfig,
    tokenizer: XLMTokenizer,
    seed: int = 0,
    *,
    sentences: Sequence[str] | None = None,
) -> list[GenerationCase]:
    """The generations for a graph: seeded ids and sentences, prompts of different lengths, prefill in one and more.

    Args:
        sentences: make generations of these alone, four rows each, the first third of the tokens as a prompt.
    """
    rng = np.random.default_rng(seed)
    names = {spec.name for spec in graph_inputs}
    longest = config.max_position_embeddings

    def drawn(lengths: list[int]) -> list[np.ndarray]:
        return [rng.integers(0, config.vocab_size, max(0, length)) for length in lengths]

    if sentences is not None:
        most = min(longest, MOST_STEPS)
        ids = [np.asarray(item[:most], dtype=np.int64) for item in tokenizer(list(sentences))["input_ids"]]
        cases = []
        for rows in (ids[start : start + 4] for start in range(0, len(ids), 4)):
            total = max(len(row) for row in rows)
            prompt = max(1, total // 3)
            pieces = [prompt, *[1] * (total - prompt)]
            cases.append(_case(f"{len(rows)} texts", names, config, rows, pieces, CHUNK, rng))
        return cases
    short, steps = min(16, longest), min(MOST_STEPS, longest - 1)
    encoded = tokenizer([sentence * 4 for sentence in SENTENCES[:4]])["input_ids"]
    texts = [np.asarray(ids[: min(longest, MOST_STEPS)], dtype=np.int64) for ids in encoded]
    total = max(len(ids) for ids in texts)
    lengths: dict[str, tuple[list[np.ndarray], list[int], int]] = {
        "from one token, one by one": (drawn([short]), [1] * short, 1),
        "3 prompts of unequal length": (drawn([short, short - 5, short - 9]), [11, *[1] * 5], CHUNK),
        "one row all padding": (drawn([short, 0, short - 2]), [9, *[1] * 7], 4),
        "prefill in 3 pieces, then in twos": (drawn([short, short - 3]), [3, 6, 1, 2, 2, 2], 5),
        f"2 × {longest}": (drawn([longest, longest - 7]), [longest - steps, *[1] * steps], CHUNK),
        f"{len(texts)} texts": (texts, [total // 3, *[1] * (total - total // 3)], 1),
    }
    return [_case(name, names, config, ids, pieces, chunk, rng) for name, (ids, pieces, chunk) in lengths.items()]


def _case(
    name: str,
    names: set[str],
    config: XLMConfig,
    token_ids: list[np.ndarray],
    pieces: list[int],
    chunk: int,
    rng: np.random.Generator,
) -> GenerationCase:
    """Pad on the left; positions count real tokens; languages are drawn for each token."""
    total = max(len(ids) for ids in token_ids)
    shape = (len(token_ids), total)
    input_ids = np.full(shape, config.pad_token_id or 0, dtype=np.int64)
    mask = np.zeros(shape, dtype=np.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, total - len(ids) :], mask[row, total - len(ids) :] = ids, 1
    arrays = {
        "input_ids": input_ids,
        "attention_mask": mask,
        "langs": rng.integers(0, config.n_langs, shape),
        "token_type_ids": rng.integers(0, min(2, config.vocab_size), shape),
        "position_ids": np.maximum(np.cumsum(mask, axis=1) - 1, 0),
    }
    kept = {key: value for key, value in arrays.items() if key in (names | {"input_ids"})}
    return GenerationCase(name, kept, _fitted(pieces, total), KeyValueCache.create(config, len(mask), chunk=chunk))


def with_embeddings(case: GenerationCase, graph: ExportGraph) -> GenerationCase:
    """The case for a graph that takes `inputs_embeds` in place of `input_ids`."""
    inputs = {name: value for name, value in case.inputs.items() if name != "input_ids"}
    return replace(case, inputs={**inputs, "inputs_embeds": graph_embeddings(graph, case.inputs["input_ids"])})


def _fitted(pieces: list[int], total: int) -> tuple[int, ...]:
    """The pieces, cut or continued by ones to `total`: models may have fewer positions than a case's steps."""
    ends = [min(end, total) for end in np.cumsum(pieces).tolist()]
    ends += range(ends[-1] + 1, total + 1)
    return tuple(size for size in np.diff([0, *ends]).tolist() if size)


def verify_cached_graph(
    reference: ExportGraph,
    session: Session,
    cases: list[GenerationCase],
    precision: str,
    provider: str,
    on_case: Callable[[str], None] | None = None,
) -> VerificationReport:
    """Every step of every case through the session, each compared with torch's uncached float32 pass.

    Args:
        reference: the float32 model, with the graph's inputs and outputs.
        on_case: called with each case's name before it runs.
    """
    report = VerificationReport(precision, provider, [], {spec.name: OutputError() for spec in reference.outputs})
    for case in cases:
        if on_case:
            on_case(case.name)
        want = uncached_outputs(reference, case.inputs)
        batch, total = case.inputs["attention_mask"].shape
        start = 0
        for size, got in zip(case.pieces, steps(session, case), strict=True):
            mask = case.inputs["attention_mask"][:, : start + size] != 0
            kept = _kept(mask[:, start:])
            wanted = {**want, "logits": _logits(reference, want["hidden"][kept // size, kept % size + start])}
            _compare(report, reference, got, wanted, mask)
            start += size
        report.cases.append(f"{case.name} ({len(case.pieces)} steps of {batch} × {total})")
    return report


def steps(session: Session, case: GenerationCase) -> Iterator[dict[str, np.ndarray]]:
    """The graph's outputs of each piece of a case, each with the keys and values that those before gave."""
    past, start = case.past, 0
    for size in case.pieces:
        end = start + size
        feed = {name: np.ascontiguousarray(value[:, start:end]) for name, value in case.inputs.items()}
        mask = feed["attention_mask"]
        feed["logit_positions"] = _kept(mask)
        outputs = session.run({**feed, "attention_mask": past.attention_mask(mask), **past.inputs})
        yield outputs
        past, start = past.append(outputs, mask), end


def _kept(mask: np.ndarray) -> np.ndarray:
    """Flat positions of the last real tokens of a piece, (batch, new)."""
    return np.flatnonzero(mask)[-MOST_LOGIT_POSITIONS:]


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


def _compare(
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
        if spec.name == "logits":
            error.add(ours, want["logits"])
            error.add_choice(argmax_agrees(ours, want["logits"], report.limit.relative_error))
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
