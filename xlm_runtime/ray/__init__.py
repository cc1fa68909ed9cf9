"""Answers by workers of a Ray cluster: files (`jobs`) and datasets of Ray Data."""

from xlm_runtime.ray.datasets import answers

__all__ = ["answers"]
