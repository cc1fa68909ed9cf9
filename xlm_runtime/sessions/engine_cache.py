"""Where a provider on the CPU keeps what it made of a bundle's graph, for the next start."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlm_runtime.bundle import BUNDLE_FILE
from xlm_runtime.errors import InputError
from xlm_runtime.sessions.session import GraphSource


class CachePlace:
    """The place of one graph in an engine cache.

    Args:
        folder: the cache.
        source: a graph of a bundle. What `bundle.json` says of its files tells it from any other; that they are as it
            says is checked before something is kept, and by `BundleModel` before the first answer.
        environment: what else decides what is made: versions, CPU, options, the format of what is kept.
        suffix: of the name.

    Raises:
        InputError: no bundle, or none with this graph.
        BundleError: see `Bundle.load`.
    """

    def __init__(self, folder: Path, source: GraphSource, environment: Mapping[str, Any], suffix: str) -> None:
        entry = source.find_entry()
        if entry is None:
            raise InputError(f"An engine cache is for graphs of a bundle, but no {BUNDLE_FILE} lies beside "
                             f"'{source.path}'; leave engine_cache out.")  # fmt: skip
        self._bundle, self._graph = entry
        key = json.dumps([self._bundle.digest(self._graph), environment], sort_keys=True)
        self.folder = folder
        self.path = folder / f"{source.path.stem}.{hashlib.sha256(key.encode()).hexdigest()[:32]}.{suffix}"

    def check_source(self) -> None:
        """Whether the graph's files are those that `bundle.json` names.

        Raises:
            BundleError: they are not.
        """
        self._bundle.check_files(self._bundle.files_of(self._graph))

    def source_bytes(self) -> int:
        """Size of the graph's files."""
        return sum(self._bundle.path(name).stat().st_size for name in self._bundle.files_of(self._graph))

    def failure(self, what: str, error: OSError) -> InputError:
        """The error of a cache that cannot be "read" or "written"."""
        return InputError(f"The engine cache '{self.folder}' cannot be {what} ({error.strerror}); name a folder that "
                          "can be, or leave engine_cache (--engine-cache) out.")  # fmt: skip
