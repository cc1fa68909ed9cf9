"""The batches that a graph is verified on: from one token to the longest, padding, mixed languages, real text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xlm_export.tracing.graph import ExportGraph
from xlm_runtime.config import XLMConfig
from xlm_runtime.tokenization import XLMTokenizer

CHOICES = 2
MOST_LOGIT_POSITIONS = 32
MIXED_ROWS, MIXED_LENGTH = 11, 64

SENTENCES = (
    "The ferry leaves the harbour at half past six, and nobody waits for late passengers.",
    "Der alte Leuchtturm wurde 1887 gebaut; heute wohnt dort eine Malerin mit drei Katzen.",
    "Mon frère achète du pain frais chaque matin, même quand il pleut à verse.",
    "Вчера вечером мы долго искали дорогу домой через тёмный лес.",
    "¿Dónde está la biblioteca? — Al lado del mercado, frente a la estación.",
    "انتظر الأطفال الحافلة تحت الشجرة الكبيرة.",
    "我们明天早上去山里看雪。",
    "Hi!",
)


@dataclass(frozen=True)
class VerificationCase:
    """A named batch: the graph's inputs."""

    name: str
    inputs: dict[str, np.ndarray]


def verification_cases(
    graph: ExportGraph, tokenizer: XLMTokenizer, seed: int = 0, mixed: bool = False
) -> list[VerificationCase]:
    """The batches for `graph`, which is padded: seeded ids in several shapes, and sentences through the tokenizer.

    Args:
        mixed: further batches in which lengths differ much, for graphs whose layout depends on them.
    """
    rng = np.random.default_rng(seed)
    longest = graph.model.config.max_position_embeddings
    lengths = {
        "1 × 1": [1],
        "3 × 17": [17, 17, 17],
        "4 × 31, padded": [31, 1, 18, 7],
        "3 × 9, one row all padding": [9, 0, 5],
        f"1 × {longest}, the longest": [longest],
    }
    if mixed:
        drawn = rng.integers(1, min(MIXED_LENGTH, longest) + 1, MIXED_ROWS).tolist()
        lengths |= {
            f"{MIXED_ROWS} random lengths": drawn,
            f"1, {min(longest, MIXED_LENGTH)}, 2, 1": [1, min(longest, MIXED_LENGTH), 2, 1],
        }
    cases = []
    for name, rows in lengths.items():
        token_ids = [rng.integers(0, graph.model.config.vocab_size, min(length, longest)) for length in rows]
        cases.append(VerificationCase(name, _inputs(graph, token_ids, rng)))
    encoded = tokenizer(list(SENTENCES))["input_ids"]
    texts = [np.asarray(ids[:longest], dtype=np.int64) for ids in encoded]
    cases.append(VerificationCase(f"{len(texts)} sentences", _inputs(graph, texts, rng)))
    return cases


def _inputs(graph: ExportGraph, token_ids: list[np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Pad the rows and make every input that the graph has; languages are drawn for each token."""
    config = graph.model.config
    batch, sequence = len(token_ids), max(len(ids) for ids in token_ids)
    input_ids = np.full((batch, sequence), config.pad_token_id or 0, dtype=np.int64)
    mask = np.zeros((batch, sequence), dtype=np.int64)
    for row, ids in enumerate(token_ids):
        input_ids[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    arrays = {"input_ids": input_ids, "attention_mask": mask, **_optional(config, input_ids.shape, rng)}
    real = np.flatnonzero(mask)
    arrays["logit_positions"] = rng.choice(real, min(MOST_LOGIT_POSITIONS, len(real)), replace=False)
    arrays["p_mask"] = (rng.random(mask.shape) < 0.3).astype(np.float32)
    arrays["cls_index"] = np.asarray([max(len(ids) - 1, 0) for ids in token_ids], dtype=np.int64)
    arrays["inputs_embeds"] = graph_embeddings(graph, input_ids)
    inputs = {}
    for spec in graph.inputs:
        value = arrays[spec.name]
        if "num_choices" in spec.axes:  # the second choice is the first one from the other end of the batch
            value = np.stack([value] + [value[::-1]] * (CHOICES - 1), axis=1)
        inputs[spec.name] = np.ascontiguousarray(value)
    return inputs


def graph_embeddings(graph: ExportGraph, input_ids: np.ndarray) -> np.ndarray:
    """(batch, sequence, emb_dim) float32: the word embeddings of `input_ids`."""
    table = graph.model.word_embeddings.detach().numpy()
    return np.asarray(table[input_ids])


def _optional(config: XLMConfig, shape: tuple[int, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "langs": rng.integers(0, config.n_langs, shape),
        "token_type_ids": rng.integers(0, min(2, config.vocab_size), shape),
        "position_ids": np.sort(rng.integers(0, config.max_position_embeddings, shape), axis=-1),
    }
