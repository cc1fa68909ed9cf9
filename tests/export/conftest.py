"""Exports whose graph need not be traced again."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir
import pytest

from tests.conftest import Bundles

Traced = Callable[[str], Path]


@pytest.fixture
def traced(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> Traced:
    """A function from a tiny bundle's name to its checkpoint, whose exports from now on get the bundle's own graph.

    For tests of what is done with a graph: tracing it takes all the time of an export.
    """

    def prepare(name: str) -> Path:
        model = onnx.load(bundles(name) / "model.onnx")
        module = importlib.import_module("xlm_export.export")  # the package has the function of that name
        monkeypatch.setattr(module, "trace", lambda graph, precision, opset: onnx_ir.from_proto(model))
        return bundles(name).parent / "checkpoints" / name

    return prepare
