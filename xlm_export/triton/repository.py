"""Writing models into a repository: each appears whole or not at all.

To Triton every folder of a repository is a model, hidden ones too. So models are prepared in a hidden folder beside the
repository.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from xlm_export.triton.models import BACKENDS, ServedModel
from xlm_export.triton.options import ServingOptions
from xlm_export.workplace import Workplaces, link
from xlm_runtime.bundle import BUNDLE_FILE, Bundle
from xlm_runtime.errors import InputError

CONFIG_FILE, VERSION = "config.pbtxt", "1"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def write_repository(
    bundle: str | Path,
    repository: str | Path,
    options: ServingOptions | None = None,
    *,
    backends: Sequence[str] = ("python",),
    name: str | None = None,
    force: bool = False,
) -> tuple[ServedModel, ...]:
    """Write a bundle into a model repository, a model for each backend. Files are linked, or copied to another disk.

    Args:
        bundle: the bundle's folder.
        repository: the repository's; other models that are there stay.
        options: how the bundle is served.
        backends: some of `BACKENDS`.
        name: of the Python backend's model, and what the others' begin with; by default the task.
        force: replace models of the same names.

    Returns:
        The models.

    Raises:
        InputError: an unknown backend, a name that is none, a model that is there already, a repository that cannot be
            written, or what the backend's function raises.
        BundleError: see `Bundle.load` and `Bundle.check_files`.
    """
    options = options or ServingOptions()
    loaded = Bundle.load(bundle)
    names = _names(backends, name or options.task or loaded.task, options)
    place = Path(os.path.realpath(repository))
    workplaces = Workplaces(place.parent, f".{place.name}.models-", place)
    _check_place(Path(repository), place)
    workplaces.sweep()
    _check_free(place, names.values(), force)
    loaded.check_files()
    models = tuple(BACKENDS[backend].make(loaded, each, options) for backend, each in names.items())
    place.parent.mkdir(parents=True, exist_ok=True)
    with workplaces.open() as work:
        draft = work / "new"
        for model in models:
            _write(model, draft / model.name)
        try:
            _put(draft, place, work, workplaces, models, force)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            raise InputError(
                f"'{repository}' is where another disk is mounted, and models are prepared beside a repository; give "
                "a folder in it."
            ) from error
    return models


def _names(backends: Sequence[str], name: str, options: ServingOptions) -> dict[str, str]:
    """Backend → the model's name."""
    unknown = [backend for backend in backends if backend not in BACKENDS]
    if unknown or not backends:
        raise InputError(f"Unknown backend '{''.join(unknown[:1])}'; expected some of {', '.join(BACKENDS)}.")
    if options.engine and "tensorrt" not in (*backends, options.provider):
        raise InputError(f"The engine '{options.engine}' was named, and nothing that is served takes one.")
    if not _NAME.fullmatch(name):
        raise InputError(
            f"'{name}' is no name of a model; expected letters, digits, '.', '_' and '-', with a letter or digit first."
        )
    return {backend: name + BACKENDS[backend].suffix for backend in backends}


def _check_place(repository: Path, place: Path) -> None:
    above = next(folder for folder in place.parents if folder.exists())
    if not above.is_dir() or (place.exists() and not place.is_dir()):
        raise InputError(f"'{repository}' cannot be a folder, since a file is there; give another name.")
    if (place / BUNDLE_FILE).exists():
        raise InputError(f"'{repository}' is a bundle; give the folder of a model repository, which may be new.")


def _check_free(place: Path, names: Iterable[str], force: bool) -> None:
    for name in names:
        folder = place / name
        if not os.path.lexists(folder):
            continue
        if not force:
            raise InputError(
                f"The model '{name}' is already in '{place}'; use --force (force=True) to replace it, or --name "
                "for another name."
            )
        if not (folder / CONFIG_FILE).is_file():
            raise InputError(f"'{folder}' holds no model and will not be replaced; give another --name.")


def _write(model: ServedModel, folder: Path) -> None:
    version = folder / VERSION
    version.mkdir(parents=True)
    for name, file in model.files.items():
        (version / name).parent.mkdir(exist_ok=True)
        link(file.resolve(), version / name)
    for name, text in model.texts.items():
        (version / name).write_text(text, encoding="utf-8")
    (folder / CONFIG_FILE).write_text(model.config, encoding="utf-8")


def _put(
    draft: Path, place: Path, work: Path, workplaces: Workplaces, models: Sequence[ServedModel], force: bool
) -> None:
    """Move the models into the repository, or the repository to its place. On any exception all is as before."""
    if not place.exists():
        try:
            draft.rename(place)
        except OSError:
            if not place.is_dir():  # since a moment ago
                raise
        else:
            return
    _check_free(place, [model.name for model in models], force)  # what appeared meanwhile
    with ExitStack() as undo:
        for model in models:
            new, there = draft / model.name, place / model.name
            undo.callback(_take_back, new, there)
            if there.exists():
                workplaces.move_away(there, work)
            new.rename(there)
        undo.pop_all()


def _take_back(new: Path, there: Path) -> None:
    if there.exists() and not new.exists():
        there.rename(new)
