"""Compiled models that OpenVINO exported, kept in a folder: the next start imports them.

OpenVINO's own cache (CACHE_DIR) reads the graph to find its key, takes a damaged file as it is, and leaves a folder
that is none out without a word. Here the key comes from the bundle's hashes, and each file has one of its content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.bundle.atomic import write_bytes
from xlm_runtime.sessions.engine_cache import CachePlace
from xlm_runtime.sessions.session import GraphSource

# Changes with how `OpenVinoSession` prepares a graph and with the format of the files.
_FORMAT = 1


class CompiledModels:
    """The place of one compiled graph in a folder.

    A file is the sha256 of what follows (32 bytes), the type that the model computes in and a line's end, and the
    exported model.

    Args:
        folder, source: see `CachePlace`; the folder is made where it is missing.
        environment: what else the compiled model depends on: versions, CPU, options.

    Raises:
        InputError, BundleError: see `CachePlace`.
    """

    def __init__(self, folder: Path, source: GraphSource, environment: Mapping[str, Any]) -> None:
        self._place = CachePlace(folder, source, {"format": _FORMAT, **environment}, "openvino")

    def load(self) -> tuple[str, bytes] | None:
        """The type computed in and the exported model; None where there is none, or a damaged one.

        Raises:
            InputError: the file is there and cannot be read.
        """
        try:
            with self._place.path.open("rb") as file:
                digest, kind, model = file.read(32), file.readline(), file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._place.failure("read", error) from error
        return (kind.decode().rstrip(), model) if _sha256(kind, model) == digest else None

    def store(self, kind: str, model: bytes) -> None:
        """Keep an exported model, whole or not at all.

        Raises:
            BundleError: the graph's files are not those that `bundle.json` names.
            InputError: the folder cannot be written.
        """
        self._place.check_source()
        line = f"{kind}\n".encode()
        try:
            self._place.folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self._place.path, _sha256(line, model), line, model)
        except OSError as error:
            raise self._place.failure("written", error) from error


def _sha256(kind: bytes, model: bytes) -> bytes:
    digest = hashlib.sha256(kind)
    digest.update(model)
    return digest.digest()
