"""XLM checkpoints become ONNX graphs: `export(checkpoint, bundle)`."""

from xlm_export.checkpoint import Checkpoint, load_checkpoint
from xlm_export.errors import CheckpointError, VerificationError
from xlm_export.export import export, verify

__all__ = ["Checkpoint", "CheckpointError", "VerificationError", "export", "load_checkpoint", "verify"]
