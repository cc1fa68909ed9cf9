"""How peers without batching of their own answer many texts: sorted by length, `TEXT_ROWS` a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.workloads import Row, text_batches


def label_rows(rows: Sequence[Row], answer: Callable[[list[Row]], np.ndarray], id2label: dict[int, str]) -> list[str]:
    """The best label of each row, from the logits (batch, labels) that `answer` gives."""
    labels = [""] * len(rows)
    for batch in text_batches([len(row) for row in rows]):
        best = answer([rows[i] for i in batch]).argmax(axis=1)
        for i, label in zip(batch, best.tolist(), strict=True):
            labels[i] = id2label[label]
    return labels
