"""What filling batches up to buckets costs on the benchmarks' streams; docs/gpu.md has these numbers."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from benchmarks import gpu, workloads
from xlm_runtime.filled_sizes import Buckets, Sizes
from xlm_runtime.model.batching import plan_batches


def share(groups: Iterable[list[int]], budget: int) -> float:
    """Tokens that are added, of all that are computed, in batches of at most `budget` tokens."""
    real = computed = 0
    for lengths in groups:
        for rows in plan_batches(lengths, budget, packed=True):
            found = [lengths[row] for row in rows]
            sizes = Sizes(sum(found), len(found), max(found))
            real += sizes.tokens
            computed += Buckets().fill(sizes).tokens
    return 1 - real / computed


DRAWS = {
    "short": workloads.short,
    "stream": workloads.stream,
    "online": workloads.online,
    "mixed": gpu.mixed,
    "single": lambda rng: [[int(length)] for length in rng.integers(8, 385, 50)],
}


@pytest.mark.parametrize(
    ("name", "budget", "expected"),
    [
        ("short", 2048, 4.2),
        ("stream", 2048, 2.6),
        ("online", 2048, 16.2),
        ("single", 2048, 20),
        ("mixed", 512, 13.1),
        ("mixed", 1024, 6.5),
        ("mixed", 2048, 4.7),
        ("mixed", 8192, 0),
    ],
)
def test_share_of_filled_tokens(name: str, budget: int, expected: float) -> None:
    groups = [group for seed in range(40) for group in DRAWS[name](np.random.default_rng(seed))]
    assert 100 * share(groups, budget) == pytest.approx(expected, abs=0.5)
