"""TensorRT engines from a bundle's graphs: `build_engine(bundle)`."""

from xlm_export.engines.builder import build_engine

__all__ = ["build_engine"]
