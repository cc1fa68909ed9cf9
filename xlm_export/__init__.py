"""Checkpoints become bundles: `export("checkpoint", "bundle")`, then `optimize` and `quantize`.

Names are imported when they are first used, since torch takes seconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xlm_export.checkpoint.checkpoint import Checkpoint, load_checkpoint
    from xlm_export.errors import CheckpointError, OptimizationError, VerificationError
    from xlm_export.exporting import export, verify
    from xlm_export.exporting_for import export_for
    from xlm_export.optimization import optimize
    from xlm_export.quantization import Limits, quantize
    from xlm_export.slimming import slim
    from xlm_export.trimming import trim

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Limits",
    "OptimizationError",
    "VerificationError",
    "export",
    "export_for",
    "load_checkpoint",
    "optimize",
    "quantize",
    "slim",
    "trim",
    "verify",
]

_MODULES = {
    "Checkpoint": "checkpoint.checkpoint",
    "Limits": "quantization",
    "export": "exporting",
    "export_for": "exporting_for",
    "load_checkpoint": "checkpoint.checkpoint",
    "optimize": "optimization",
    "quantize": "quantization",
    "slim": "slimming",
    "trim": "trimming",
    "verify": "exporting",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'xlm_export' has no attribute '{name}'")
    return getattr(import_module(f"xlm_export.{_MODULES.get(name, 'errors')}"), name)
