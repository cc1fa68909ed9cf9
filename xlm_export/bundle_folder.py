"""A new bundle's folder: it appears whole or not at all, and what was there before is replaced, or stays as it was.

A bundle is filled in a hidden workplace beside its place. The next export in the same folder clears up after one that
was killed: an old bundle that had just been moved away comes back.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xlm_export.bundle_writer import is_exported
from xlm_export.workplace import Workplaces, link
from xlm_runtime.bundle import BUNDLE_FILE, Bundle
from xlm_runtime.bundle.locks import writing
from xlm_runtime.bundle.schema import ENGINES_FOLDER, LOCK_FILE, READ_FILES
from xlm_runtime.errors import BundleError, InputError

_NEW = "new"


def check_place(target: Path, force: bool, mark: str = BUNDLE_FILE) -> None:
    """Whether a bundle, or another folder that appears whole, can be written, before the work begins.

    Args:
        force: one that is there will be replaced.
        mark: the file that such a folder has.

    Raises:
        InputError: no name for a folder, a link to nowhere, a folder that is there, or one that cannot be made.
    """
    if target.name in ("", ".."):
        raise InputError(f"'{target}' is a folder that cannot be replaced; give the name of a folder to write.")
    try:
        target.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise InputError(f"'{target}' cannot be written ({error.strerror}); give the name of a folder.") from error
    place = _place(target)
    if target.is_symlink() and not target.exists():
        raise InputError(f"'{target}' is a link to '{place}', which is not there; remove the link, or give that name.")
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise InputError(f"'{target}' cannot be written, since '{above}' is no folder that can be; give another name.")
    _workplaces(place).sweep()
    if place.exists() and not place.is_dir():
        raise InputError(f"'{target}' is a file; give the name of a folder to write.")
    if not _is_filled(place):
        return
    if not force:
        raise _is_there(target)
    if not (place / mark).is_file():
        what = "bundle" if mark == BUNDLE_FILE else mark
        raise InputError(f"The folder '{target}' holds no {what} and will not be replaced; give another one.")


def what_goes(target: Path) -> list[str]:
    """What a bundle has beyond what an export writes, which is lost when it is replaced."""
    try:
        bundle = Bundle.load(target, accept_failed=True)
    except BundleError:
        return []
    engines = len(list((target / ENGINES_FOLDER).glob("[!.]*.json")))
    found = [f"the graph {graph.file}" for graph in bundle.graphs if not is_exported(bundle, graph)]
    found += [f"{engines} TensorRT engine{'s' if engines > 1 else ''}"] if engines else []
    return found + (["the times of xlm-runtime autotune"] if bundle.timings else [])


@contextmanager
def write_bundle(target: Path, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the place of `target` at the end. On any exception all is as before.

    Args:
        target: the bundle's folder.
        force: replace a bundle that is there; files that are not the bundle's stay in the folder.

    Raises:
        InputError: a folder is there, or appeared meanwhile, and `force` is not set.
        BundleError: an old bundle could not be put back; the message says where it lies.
    """
    place = _place(target)
    place.parent.mkdir(parents=True, exist_ok=True)
    workplaces = _workplaces(place)
    with workplaces.open() as work:
        draft = work / _NEW
        draft.mkdir()
        yield draft
        if _is_filled(place) and not force:
            raise _is_there(target)
        if _is_filled(place):
            _swap(draft, place, work, workplaces)
        else:
            _move(draft, place, target)


def _move(draft: Path, place: Path, target: Path) -> None:
    try:
        draft.rename(place)
    except OSError as error:
        if _is_filled(place):  # since a moment ago
            raise _is_there(target) from error
        raise


def _swap(draft: Path, place: Path, work: Path, workplaces: Workplaces) -> None:
    """Put a folder in another one's place, which goes to the workplace."""
    _keep_others(place, draft)
    with writing(place):
        try:
            workplaces.move_away(place, work)
            draft.rename(place)
        except BaseException:
            if place.exists() and not draft.exists():
                place.rename(draft)
            raise


def _keep_others(place: Path, draft: Path) -> None:
    """Take what lies in a bundle's folder and is not the bundle's into the new one, as links where there are any."""
    try:
        files = Bundle.load(place, accept_failed=True).files
    except BundleError:
        files = {}
    own = {BUNDLE_FILE, LOCK_FILE, ENGINES_FOLDER, *READ_FILES, *files, *(path.name for path in draft.iterdir())}
    for path in place.iterdir():
        if path.name in own or path.name.startswith(".adding-"):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, draft / path.name, symlinks=True, copy_function=link)
        else:
            link(path, draft / path.name)


def _workplaces(place: Path) -> Workplaces:
    return Workplaces(place.parent, ".xlm-export-", place.parent)


def _place(target: Path) -> Path:
    """Where a folder is, behind links."""
    return Path(os.path.realpath(target))


def _is_filled(place: Path) -> bool:
    return place.is_dir() and any(place.iterdir())


def _is_there(target: Path) -> InputError:
    goes = what_goes(target)
    lost = f", and with it {', '.join(goes)}" if goes else ""
    return InputError(f"The folder '{target}' is already there; use --force (force=True) to replace it{lost}.")
