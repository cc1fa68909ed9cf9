"""Errors of the exporter."""

from __future__ import annotations

from xlm_runtime.errors import XLMError


class CheckpointError(XLMError, ValueError):
    """A checkpoint whose files or tensors are missing, unexpected, misshapen or truncated."""


class VerificationError(XLMError, RuntimeError):
    """A graph whose outputs differ from torch's by more than the limit of its precision."""


class OptimizationError(XLMError, RuntimeError):
    """A pass that did not find what every graph of this exporter has."""
