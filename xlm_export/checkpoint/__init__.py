"""Checkpoints: from weight files of any year to a model."""

from xlm_export.checkpoint.checkpoint import Checkpoint, load_checkpoint

__all__ = ["Checkpoint", "load_checkpoint"]
