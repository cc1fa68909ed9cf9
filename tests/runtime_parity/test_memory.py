"""Memory of a graph large enough that plans kept for each shape show."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.make_checkpoint import make_checkpoint
from tests.runtime.memory_growth import STATM, memory_growth
from xlm_export.exporting import export

# Bytes. Measured: 60 kB where no plan is kept and 6 MB where one is kept for each shape; 18 MB where a large call gives
# its memory back and 127 MB where it does not.
CALLS, LARGE_CALL = 1_000_000, 60_000_000
LAYERS, DIM, LONGEST = 6, 128, 128


@pytest.mark.whole
@pytest.mark.skipif(not STATM.exists(), reason="reads the process's memory from /proc")
def test_memory_is_flat_over_a_thousand_calls_of_varying_shapes(tmp_path: Path) -> None:
    options = {"n_layers": LAYERS, "emb_dim": DIM, "max_position_embeddings": LONGEST}
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMModel", **options)
    export(checkpoint, tmp_path / "bundle", verify=False)
    calls, large_call = memory_growth(tmp_path / "bundle" / "model.onnx", LONGEST)
    assert calls < CALLS
    assert large_call < LARGE_CALL
