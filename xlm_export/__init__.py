"""Checkpoints become bundles: `export("checkpoint", "bundle")`, then `optimize` and `quantize`."""

from xlm_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
from xlm_export.errors import CheckpointError, OptimizationError, VerificationError
from xlm_export.export import export, verify
from xlm_export.optimization import optimize
from xlm_export.quantization import Limits, quantize

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Limits",
    "OptimizationError",
    "VerificationError",
    "export",
    "load_checkpoint",
    "optimize",
    "quantize",
    "verify",
]
