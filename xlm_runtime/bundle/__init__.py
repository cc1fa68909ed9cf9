"""The bundle: the folder that an export writes and the runtime loads."""

from xlm_runtime.bundle.bundle import FORMAT_VERSION, Bundle
from xlm_runtime.bundle.graph import Graph
from xlm_runtime.bundle.hashes import file_sha256
from xlm_runtime.bundle.schema import BUNDLE_FILE, CLS_INDEX_CONVENTIONS, LANGS_INPUT, LANGS_NONE

__all__ = [
    "BUNDLE_FILE",
    "CLS_INDEX_CONVENTIONS",
    "FORMAT_VERSION",
    "LANGS_INPUT",
    "LANGS_NONE",
    "Bundle",
    "Graph",
    "file_sha256",
]
