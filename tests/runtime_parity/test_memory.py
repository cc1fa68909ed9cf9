"""Memory of a graph large enough that plans kept for each shape show."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.make_checkpoint import make_checkpoint
from tests.runtime.test_sessions import inputs, resident_bytes
from xlm_export.export import export
from xlm_runtime.sessions import open_session

MEMORY_GROWTH = 3_000_000
LAYERS, DIM, LONGEST = 6, 128, 128


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the process's memory from /proc")
def test_memory_is_flat_over_a_thousand_calls_of_varying_shapes(tmp_path: Path) -> None:
    options = {"n_layers": LAYERS, "emb_dim": DIM, "max_position_embeddings": LONGEST}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel", **options)
    export(checkpoint, tmp_path / "bundle", verify=False)
    session = open_session(tmp_path / "bundle" / "model.onnx")
    rng = random.Random(0)
    shapes = [(rng.randint(1, 8), rng.randint(1, LONGEST)) for _ in range(1000)]
    session.run(inputs(8, LONGEST))
    for shape in shapes[:50]:
        session.run(inputs(*shape))
    before = resident_bytes()
    for shape in shapes[50:]:
        session.run(inputs(*shape))
    assert resident_bytes() - before < MEMORY_GROWTH
    # one call that is far larger: most of what it took is given back
    session.run(inputs(128, LONGEST))
    assert resident_bytes() - before < 20 * MEMORY_GROWTH
