"""Exports whose graph need not be traced again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir
import pytest

from tests.conftest import Bundles
from xlm_export import exporting

Traced = Callable[[str], Path]


@pytest.fixture
def traced(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """A function from a tiny bundle's name to its checkpoint, whose exports from now on get the bundle's own graph.

    For tests of what is done with a graph: tracing it takes all the time of an export.
    """

    def prepare(name: str) -> Path:
        model = onnx.load(bundles(name) / "model.onnx")
        monkeypatch.setattr(exporting, "trace", lambda graph, precision, opset: onnx_ir.from_proto(model))
        return bundles(name).parent / "checkpoints" / name

    return prepare
