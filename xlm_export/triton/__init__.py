"""Model repositories for Triton Inference Server: `write_repository(bundle, repository)`."""

from xlm_export.triton.repository import write_repository

__all__ = ["write_repository"]
