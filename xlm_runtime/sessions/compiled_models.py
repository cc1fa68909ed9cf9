"""Compiled models that OpenVINO exported, kept in a folder: the next start imports them.

OpenVINO's own cache (CACHE_DIR) reads the graph to find its key, takes a damaged file as it is, and leaves a folder
that is none out without a word. Here the key comes from the bundle's hashes, and each file has one of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import BUNDLE_FILE
from xlm_runtime.bundle.atomic import write_bytes
from xlm_runtime.errors import InputError
from xlm_runtime.sessions.session import GraphSource

# Changes with how `OpenVinoSession` prepares a graph and with the format of the files.
_FORMAT = 1


class CompiledModels:
    """The place of one compiled graph in a folder.

    A file is the sha256 of what follows (32 bytes), the type that the model computes in and a line's end, and the
    exported model.

    Args:
        folder: the cache, which is made where it is missing.
        source: a graph of a bundle. What `bundle.json` says of its files tells it from any other; that they are as it
            says is checked before something is kept, and by `BundleModel` before the first answer.
        environment: what else the compiled model depends on: versions, CPU, options.

    Raises:
        InputError: no bundle, or none with this graph.
        BundleError: see `Bundle.load`.
    """

    def __init__(self, folder: Path, source: GraphSource, environment: Mapping[str, Any]) -> None:
        entry = source.find_entry()
        if entry is None:
            raise InputError(f"An engine cache is for graphs of a bundle, but no {BUNDLE_FILE} lies beside "
                             f"'{source.path}'; leave engine_cache out.")  # fmt: skip
        self._bundle, self._graph = entry
        key = json.dumps([_FORMAT, self._bundle.digest(self._graph), environment], sort_keys=True)
        self._folder = folder
        self._file = folder / f"{source.path.stem}.{hashlib.sha256(key.encode()).hexdigest()[:32]}.openvino"

    def load(self) -> tuple[str, bytes] | None:
        """The type computed in and the exported model; None where there is none, or a damaged one.

        Raises:
            InputError: the file is there and cannot be read.
        """
        try:
            with self._file.open("rb") as file:
                digest, kind, model = file.read(32), file.readline(), file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failure("read", error) from error
        return (kind.decode().rstrip(), model) if _sha256(kind, model) == digest else None

    def store(self, kind: str, model: bytes) -> None:
        """Keep an exported model, whole or not at all.

        Raises:
            BundleError: the graph's files are not those that `bundle.json` names.
            InputError: the folder cannot be written.
        """
        self._bundle.check_files(self._bundle.files_of(self._graph))
        line = f"{kind}\n".encode()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_bytes(self._file, _sha256(line, model), line, model)
        except OSError as error:
            raise self._failure("written", error) from error

    def _failure(self, what: str, error: OSError) -> InputError:
        return InputError(f"The engine cache '{self._folder}' cannot be {what} ({error.strerror}); name a folder that "
                          "can be, or leave engine_cache (--engine-cache) out.")  # fmt: skip


def _sha256(kind: bytes, model: bytes) -> bytes:
    digest = hashlib.sha256(kind)
    digest.update(model)
    return digest.digest()
