"""Hidden folders to prepare others in, which then take their places; what was left there by a process that was killed
comes back.

The process that works in one holds a lock on it, so the next one that works beside it clears up after one that is gone.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from xlm_runtime.bundle.locks import held
from xlm_runtime.bundle.schema import LOCK_FILE
from xlm_runtime.errors import BundleError

_LOCK, _OLD = "lock", "old"


@dataclass(frozen=True)
class Workplaces:
    """Where work of one kind is done.

    Args:
        parent: the folder that workplaces are made in.
        prefix: of their names, which no other kind of work in this folder has.
        home: what is moved away has its place here.
    """

    parent: Path
    prefix: str
    home: Path

    @contextmanager
    def open(self) -> Iterator[Path]:
        """A workplace, gone at the end.

        Raises:
            BundleError: what was moved away could not be put back; the message says where it lies.
        """
        with ExitStack() as lock:
            work = None
            while work is None:
                work = Path(tempfile.mkdtemp(prefix=self.prefix, dir=self.parent))
                try:
                    lock.enter_context(held(work / _LOCK))
                except FileNotFoundError:  # work that began at the same time took it for one that was left
                    work = None
            try:
                yield work
            finally:
                self._clear(work)

    def sweep(self) -> None:
        """Clear the workplaces of processes that are gone."""
        for work in self.parent.glob(f"{glob.escape(self.prefix)}*"):
            with suppress(OSError, BundleError):  # somebody else's, or cleared meanwhile
                if not (work / _LOCK).exists():
                    work.rmdir()
                    continue
                with held(work / _LOCK) as dead:
                    if dead:
                        self._clear(work)

    def move_away(self, place: Path, work: Path) -> None:
        """Move a folder out of `home` into a workplace. Unless another one takes its place it comes back at the end."""
        (work / _OLD).mkdir(exist_ok=True)
        place.rename(work / _OLD / place.name)

    def _clear(self, work: Path) -> None:
        for old in (work / _OLD).iterdir() if (work / _OLD).is_dir() else ():
            place = self.home / old.name
            if not os.path.lexists(place):
                try:
                    (old / LOCK_FILE).unlink(missing_ok=True)
                    old.rename(place)
                except OSError as error:
                    raise BundleError(
                        f"The folder '{place}' could not be put back ({error.strerror}); it lies in '{old}'."
                    ) from error
        shutil.rmtree(work, ignore_errors=True)


def link(file: str | Path, place: str | Path) -> None:
    """A hard link; a copy where there are none."""
    try:
        os.link(file, place, follow_symlinks=False)
    except OSError:
        shutil.copy2(file, place, follow_symlinks=False)
