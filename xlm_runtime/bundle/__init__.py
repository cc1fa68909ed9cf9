"""The bundle: the folder that an export writes and the runtime loads."""

from xlm_runtime.bundle.bundle import FORMAT_VERSION, Bundle, file_sha256
from xlm_runtime.bundle.graph import Graph
from xlm_runtime.bundle.schema import BUNDLE_FILE, CLS_INDEX_CONVENTIONS

__all__ = ["BUNDLE_FILE", "CLS_INDEX_CONVENTIONS", "FORMAT_VERSION", "Bundle", "Graph", "file_sha256"]
