"""Fewer words: a checkpoint without the embeddings of words that its texts do not need."""

from xlm_export.trimming.trim import Trimmed, trim

__all__ = ["Trimmed", "trim"]
