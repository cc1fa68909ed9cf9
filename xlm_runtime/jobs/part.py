"""An output that grows beside its place, with a journal, so that work that was cut goes on where it was cut.

Beside OUTPUT lie, until it is whole: OUTPUT.part and OUTPUT.part.errors.jsonl, to which bytes are appended, and
OUTPUT.part.json, the journal, which says how much of both is certain. Bytes are on the disk before the journal tells of
them; what lies behind is cut off when work goes on. So nothing is lost or there twice, however a process ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from xlm_runtime.bundle.atomic import drafts, json_text
from xlm_runtime.bundle.locks import held
from xlm_runtime.checked_json import read_object
from xlm_runtime.errors import InputError, XLMError

_FORMAT_VERSION = 1
_BLOCK = 1 << 20  # bytes that are written at once


@dataclass(frozen=True)
class State:
    """How far the work is.

    Attributes:
        rows: of the input that are done, failed ones among them.
        failed: of these.
        size: bytes of the part.
        errors_size: bytes of the file with what failed.
        columns: what the output's format has to know of them, see `Format.encode`.
        finished: all rows are done, and the output is about to take its place.
    """

    rows: int = 0
    failed: int = 0
    size: int = 0
    errors_size: int = 0
    columns: tuple[str, ...] | None = None
    finished: bool = False


class Part:
    """An output under way, see `open_part`."""

    def __init__(self, output: Path, identity: Mapping[str, Any], state: State) -> None:
        self.output = output
        self.path = _beside(output, ".part")
        self.state = state
        self._identity = identity
        self._errors = _beside(output, ".part.errors.jsonl")
        self._journal = _beside(output, ".part.json")
        self._recorded: State | None = None

    def begin(self) -> None:
        """Cut off what the journal does not tell of.

        Raises:
            InputError: the part is shorter than the journal says.
        """
        if not self._journal.exists():
            self.record()  # first, so that a part without a journal is none of ours
        for path, size in ((self.path, self.state.size), (self._errors, self.state.errors_size)):
            with path.open("ab") as file:
                if file.tell() < size:
                    raise InputError(
                        f"'{path}' has {file.tell()} bytes, {size} were written; begin anew with --restart."
                    )
                file.truncate(size)

    def append(self, data: Iterable[bytes], errors: Iterable[bytes], state: State) -> None:
        """Append what further rows gave.

        Args:
            state: rows, failed rows and columns behind it; the sizes are added here.
        """
        size, errors_size = self.state.size, self.state.errors_size
        size += _append(self.path, size, data)
        errors_size += _append(self._errors, errors_size, errors)
        self.state = replace(state, size=size, errors_size=errors_size)

    def record(self) -> None:
        """Make sure of all that was appended: bytes on the disk, then the journal."""
        if self.state == self._recorded:
            return
        for path in (self.path, self._errors):
            if path.exists():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        values = {"format_version": _FORMAT_VERSION, **self._identity, "state": asdict(self.state)}
        with drafts(self._journal) as (draft,), draft.open("wb") as file:
            file.write(json_text(values).encode())
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(self.output.parent)
        self._recorded = self.state

    def finish(self, join: Callable[[Path, Path], None] | None = None) -> None:
        """Put the output in its place, and what failed beside it. Cut in the middle, it goes on when called again.

        Args:
            join: writes the output (second argument) from the part (first), where the part is not the output.
        """
        self.state = replace(self.state, finished=True)
        self.record()
        failures = _beside(self.output, ".errors.jsonl")
        if self.state.failed and self._errors.exists():
            self._errors.replace(failures)
        elif not self.state.failed:
            for path in (self._errors, failures):  # that of an output that is replaced
                path.unlink(missing_ok=True)
        if self.path.exists():
            if join is None:
                self.path.replace(self.output)
            else:
                join(self.path, self.output)
                self.path.unlink()
        _sync_folder(self.output.parent)
        self._journal.unlink()

    def discard(self) -> None:
        """Remove all that lies beside the output."""
        for path in (self.path, self._errors, self._journal):  # a part without a journal would be taken for another's
            path.unlink(missing_ok=True)


@contextmanager
def open_part(
    output: Path, identity: Mapping[str, Any], *, restart: bool = False, force: bool = False
) -> Iterator[Part]:
    """The part of an output, as it was left, or a new one. No other process has it while the block runs.

    At the block's end what was appended is recorded, however it ends; a part without a row is removed.

    Args:
        identity: what the output is made from: names and values in JSON. It must be what it was when the part was
            begun.
        restart: throw away what was done before.
        force: replace an output that is there.

    Raises:
        InputError: another process writes this output; it is there already; the part was begun with another identity,
            or is none of ours.
    """
    output = Path(os.path.realpath(output))
    if not output.parent.is_dir():
        raise InputError(f"Folder '{output.parent}' not found, where '{output.name}' is to be written; make it first.")
    lock = _beside(output, ".part.lock")
    with held(lock) as ours:
        if not ours:
            raise InputError(f"Another process writes '{output}'; wait for it, or give another --output.")
        try:
            state = State() if restart else _read_state(_beside(output, ".part"), identity)
            if output.is_dir() or (output.exists() and not (force or state.finished)):
                remedy = "give a file's name" if output.is_dir() else "--force replaces it when the job is done"
                raise InputError(f"'{output}' is there already; {remedy}.")
            part = Part(output, identity, state)
            if restart:
                part.discard()
            if not state.finished:
                part.begin()
            try:
                yield part
            finally:
                with suppress(OSError):  # then the journal tells of less
                    if part.state == State():
                        part.discard()
                    elif not part.state.finished:
                        part.record()
        finally:
            with suppress(OSError):  # Windows removes no open file
                lock.unlink(missing_ok=True)


def _read_state(part: Path, identity: Mapping[str, Any]) -> State:
    """What the journal says; that nothing is done, where there is none."""
    journal = part.with_name(f"{part.name}.json")
    if not journal.exists():
        if part.exists():
            raise InputError(
                f"'{part}' is there without '{journal.name}'; move it away, or throw it away by --restart."
            )
        return State()
    try:
        before = read_object(journal)
        columns = before["state"].pop("columns")
        state = State(columns=None if columns is None else tuple(columns), **before.pop("state"))
        version = before.pop("format_version")
    except (XLMError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"'{journal}' is damaged ({error}); begin anew with --restart.") from error
    now = json.loads(json.dumps(identity))
    changed = [name for name in now if before.get(name) != now[name]]
    if version != _FORMAT_VERSION or changed:
        raise InputError(
            f"'{part}' was begun with {_describe(changed, before, now) or 'another version'}. Run the command that "
            "began it to go on, or begin anew with --restart."
        )
    return state


def _describe(changed: list[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not as it was; of options each with its value."""
    found = []
    for name in changed:
        old, new = before.get(name), now[name]
        if name == "options" and isinstance(old, dict):
            found += [
                f"--{option.replace('_', '-')} {old.get(option)} (now {new.get(option)})"
                for option in sorted({*old, *new})
                if old.get(option) != new.get(option)
            ]
        else:
            found.append(f"another {name}")
    return ", ".join(found)


def _beside(output: Path, ending: str) -> Path:
    return output.with_name(output.name + ending)


def _append(path: Path, start: int, pieces: Iterable[bytes]) -> int:
    """Write at a place, over what an attempt that failed left there; returns how many bytes."""
    block, written = bytearray(), 0
    with path.open("rb+", buffering=0) as file:
        file.seek(start)
        for piece in pieces:
            block += piece
            if len(block) >= _BLOCK:
                written += _write(file, block)
                block.clear()
        written += _write(file, block)
        file.truncate()
    return written


def _write(file: IO[bytes], block: bytearray) -> int:
    done = 0
    while done < len(block):  # without a buffer a part may be written
        done += file.write(bytes(block[done:]))
    return done


def _sync_folder(folder: Path) -> None:
    """New names in a folder are on the disk. Windows cannot say so."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
