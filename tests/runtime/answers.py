"""Comparing what pipelines answer."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.tolerances import RUNTIME_FP32


def same(ours: Any, theirs: Any) -> None:
    """Equal words, near numbers, in the same order."""
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            same(ours[key], value)
    elif isinstance(theirs, list) and not all(isinstance(item, (int, float)) for item in theirs):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            same(one, other)
    elif isinstance(theirs, (float, list, np.ndarray)):
        np.testing.assert_allclose(ours, theirs, rtol=RUNTIME_FP32, atol=RUNTIME_FP32)
    else:
        assert ours == theirs
