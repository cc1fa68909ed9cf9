"""A new bundle's folder: whole or not at all, over an old one only where that was asked for."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.export.test_bundle_writer import contents
from xlm_export import quantize
from xlm_export.bundle_folder import check_place, what_goes, write_bundle
from xlm_export.cli import export as command
from xlm_export.cli.main import main
from xlm_runtime.bundle import BUNDLE_FILE, Bundle
from xlm_runtime.bundle.schema import LOCK_FILE
from xlm_runtime.errors import BundleError, InputError


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Path:
    (tmp_path / "at").mkdir()
    return Path(shutil.copytree(bundles("text-classification"), tmp_path / "at" / "bundle"))


def write(target: Path, force: bool = True) -> None:
    with write_bundle(target, force) as draft:
        (draft / "new.txt").write_text("new")


@pytest.mark.parametrize("error", [OSError(1, "Operation not permitted"), KeyboardInterrupt()])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_bundle_that_cannot_be_replaced_comes_back(
    failing: int, after: bool, error: BaseException, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`export --force` renames the old folder, then the new one."""
    before, rename, calls = contents(bundle), Path.rename, []

    def fail(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing and not after:
            raise error
        renamed = rename(path, target)
        if len(calls) == failing:
            raise error
        return renamed

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(type(error)):
        write(bundle)
    monkeypatch.undo()
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    assert contents(bundle) == before
    write(bundle)
    assert contents(bundle.parent) == {"bundle/new.txt": b"new"}


def test_a_bundle_that_cannot_even_come_back_is_not_deleted(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All renames but the first fail: the error says where it lies, and the next run puts it back."""
    before, rename, calls = contents(bundle), Path.rename, []

    def fail(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) > 1:
            raise OSError(30, "Read-only file system")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(
        BundleError, match=r"could not be put back \(Read-only file system\); it lies in '(.*)'"
    ) as caught:
        write(bundle)
    assert contents(Path(str(caught.value).split("'")[-2])) == before
    monkeypatch.undo()
    check_place(bundle, force=True)
    assert contents(bundle) == before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("number", [1, 2])
def test_a_process_that_is_killed_leaves_nothing_for_long(
    number: int, after: bool, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(bundle)
    child = os.fork()
    if not child:
        rename, calls = Path.rename, []

        def kill(path: Path, target: Path) -> Path:
            calls.append(path)
            if len(calls) == number and after:
                rename(path, target)
            if len(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(path, target)

        monkeypatch.setattr(Path, "rename", kill)
        with write_bundle(bundle, force=True) as draft:
            (draft / BUNDLE_FILE).write_text("{}")
    os.waitpid(child, 0)
    check_place(bundle, force=True)
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    (bundle / LOCK_FILE).unlink(missing_ok=True)  # which nobody holds
    assert contents(bundle) == ({BUNDLE_FILE: b"{}"} if (number, after) == (2, True) else before)


def test_a_workplace_whose_process_lives_stays(bundle: Path) -> None:
    with write_bundle(bundle, force=True) as draft:
        (draft / "new.txt").write_text("new")
        check_place(bundle, force=True)
        write(bundle.with_name("other"))
        assert (draft / "new.txt").exists()
    assert contents(bundle) == {"new.txt": b"new"}


def test_a_bundle_that_appears_meanwhile_is_not_replaced(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)

    def write_late() -> None:
        with write_bundle(tmp_path / "late") as draft:
            (draft / "new.txt").write_text("new")
            shutil.copytree(bundle, tmp_path / "late")

    with pytest.raises(InputError, match="is already there; use --force"):
        write_late()
    assert contents(tmp_path / "late") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["at", "late"]


def test_files_that_are_not_the_bundles_stay(bundle: Path, tmp_path: Path) -> None:
    (bundle / "README.md").write_text("mine")
    (bundle / "notes").mkdir()
    (bundle / "notes" / "a.txt").write_text("mine")
    (bundle / "link").symlink_to("notes/a.txt")
    (bundle / "engines").mkdir()
    (bundle / "engines" / "a.plan").write_text("of the old graph")
    write(bundle)
    assert contents(bundle) == {"new.txt": b"new", "README.md": b"mine", "notes/a.txt": b"mine", "link": b"mine"}
    assert os.readlink(bundle / "link") == "notes/a.txt"


def test_a_damaged_bundle_is_replaced(bundle: Path) -> None:
    (bundle / BUNDLE_FILE).write_text("{")
    (bundle / "README.md").write_text("mine")
    write(bundle)
    assert {"new.txt", "README.md"} <= contents(bundle).keys()
    assert not {"vocab.json", BUNDLE_FILE} & contents(bundle).keys()


def test_a_link_to_a_bundle(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle)
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert contents(bundle) == {"new.txt": b"new"}


PLACES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "the current folder": (lambda folder: Path("."), "is a folder that cannot be replaced"),
    "the one above": (lambda folder: folder / "..", "is a folder that cannot be replaced"),
    "the root": (lambda folder: Path("/"), "is a folder that cannot be replaced"),
    "a dangling link": (lambda folder: link(folder / "link", folder / "absent"), "is a link to .*absent', which"),
    "a link to itself": (lambda folder: link(folder / "loop", folder / "loop"), "is a link to|Too many levels"),
    "a long name": (lambda folder: folder / ("x" * 300), "cannot be written \\(File name too long\\)"),
    "inside a file": (lambda folder: touch(folder / "file") / "bundle", "cannot be written|is no folder that can be"),
    "a file": (lambda folder: touch(folder / "file"), "is a file; give the name of a folder"),
}  # fmt: skip


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def touch(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("case", PLACES)
def test_places_that_no_bundle_can_have(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the checkpoint is looked at, which is not there."""
    make, message = PLACES[case]
    target = make(tmp_path)
    with pytest.raises(InputError, match=message):
        check_place(target, force=True)
    assert main(["export", str(tmp_path / "no-checkpoint"), str(target), "--force"]) == 1
    assert "no-checkpoint" not in capsys.readouterr().err


def test_a_name_as_long_as_can_be(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    check_place(target, force=False)
    write(target)
    write(target)
    assert contents(tmp_path) == {f"{target.name}/new.txt": b"new"}


def test_what_is_lost_is_named(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert what_goes(bundle) == []
    quantize(bundle, "int8-dynamic")
    values = json.loads((bundle / BUNDLE_FILE).read_text())
    (bundle / BUNDLE_FILE).write_text(json.dumps(values | {"calibration": [{}]}))
    (bundle / "engines").mkdir()
    (bundle / "engines" / "a.json").touch()
    lost = "the graph model.int8-dynamic.onnx, 1 TensorRT engine, the times of xlm-runtime autotune"
    assert main(["export", "no-checkpoint", str(bundle)]) == 1
    assert f"use --force (force=True) to replace it, and with it {lost}." in capsys.readouterr().err
    monkeypatch.setattr(command, "export", lambda checkpoint, target, **options: Bundle.load(target))
    assert main(["export", "no-checkpoint", str(bundle), "--force"]) == 0
    assert f"replaced, and dropped with the old bundle: {lost}" in capsys.readouterr().out


TERMINATED = """
import os, signal, sys
from pathlib import Path
from xlm_export.cli import export as command, main
from xlm_export.bundle_folder import write_bundle

def export(checkpoint, bundle, **options):
    with write_bundle(bundle, True) as draft:
        (draft / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        (draft / "whole.txt").write_text("whole")

command.export = export
sys.exit(main.main(["export", "x", sys.argv[1]]))
"""


@pytest.mark.slow(seconds=8)
def test_sigterm_cleans_up(bundle: Path) -> None:
    before = contents(bundle.parent)
    done = subprocess.run([sys.executable, "-c", TERMINATED, str(bundle)], capture_output=True, text=True)
    assert done.returncode == 143
    assert "interrupted; the bundle is as it was before" in done.stderr
    assert contents(bundle.parent) == before
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
