"""From what a user names to a folder that can be read: a checkpoint's own, or that of a converted file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xlm_export.checkpoint.source import Source, find_source
from xlm_export.errors import CheckpointError
from xlm_export.families.xlm.original import convert_checkpoint

ORIGINAL = ".pth"
"""How files of XLM's original code end."""


@contextmanager
def open_source(
    name: str | Path,
    revision: str | None = None,
    subfolder: str | None = None,
    *,
    offline: bool = False,
    codes: str | Path | None = None,
    vocab: str | Path | None = None,
) -> Iterator[Source]:
    """A folder, a hub id, or a `.pth` file of XLM's original code, whose configuration and words are written for as
    long as it is read.

    Args:
        name, revision, subfolder, offline: see `find_source`.
        codes, vocab: see `convert_checkpoint`.

    Raises:
        CheckpointError: see both; options that do not fit what `name` is.
    """
    path = Path(name)
    if path.suffix != ORIGINAL or path.is_dir():
        if codes is not None or vocab is not None:
            raise CheckpointError(
                f"Codes and vocabulary were given, but '{name}' is no {ORIGINAL} file of XLM's original code. For a "
                "folder put them into one of their own and give that with --tokenizer (tokenizer=…)."
            )
        yield find_source(name, revision, subfolder, offline=offline)
        return
    if not path.is_file():
        raise CheckpointError(f"File '{name}' not found.")
    if revision is not None or subfolder is not None:
        raise CheckpointError(f"'{name}' is a file; leave out the revision and the subfolder.")
    with tempfile.TemporaryDirectory() as draft:
        tensors = convert_checkpoint(
            path, Path(draft), None if codes is None else Path(codes), None if vocab is None else Path(vocab)
        )
        yield Source(str(name), Path(draft), (path, tensors))
