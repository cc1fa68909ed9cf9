"""A model repository: whole or not at all, and nothing replaced that was not asked for."""

from __future__ import annotations

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
from xlm_export.cli.main import main
from xlm_export.triton import write_repository
from xlm_runtime.errors import BundleError, InputError

BOTH = ("python", "onnxruntime")


@pytest.fixture
def bundle(bundles: Bundles) -> Path:
    return bundles("text-classification")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "new" / "models"
    words = ["triton", str(bundle), str(repository)]
    assert main([*words, "--backend", "python,onnxruntime", "--instances", "2", "--max-batch", "4"]) == 0
    first, second, serve, ask = capsys.readouterr().out.splitlines()
    assert first.endswith("text-classification: text-classification, texts in and answers out, in batches of up to 4")
    assert "text-classification-onnxruntime: model.onnx, arrays in and out, in batches of up to 4 rows" in second
    assert serve == f"serve it: tritonserver --model-repository {repository}"
    assert ask == """ask it: curl localhost:8000/v2/models/text-classification/generate -d '{"text": "A text."}'"""
    assert names(tmp_path / "new") == ["models"]
    model = repository / "text-classification"
    assert contents(model / "1" / "bundle").keys() == contents(bundle).keys()
    assert "max_batch_size: 4" in (model / "config.pbtxt").read_text()
    assert names(repository / "text-classification-onnxruntime" / "1") == ["model.onnx"]

    assert main(words) == 1
    assert "is already in" in capsys.readouterr().err
    assert main([*words, "--name", "labels"]) == 0
    assert main([*words, "--force", "--max-batch", "7"]) == 0
    assert "max_batch_size: 7" in (model / "config.pbtxt").read_text()
    assert names(repository) == ["labels", "text-classification", "text-classification-onnxruntime"]
    assert main(["triton", str(bundle / "not"), str(repository)]) == 1
    assert "expected a bundle written by" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".hidden", "a b", "/tmp/x", "-x", "ä", "a\n", "a" * 300])
def test_a_name_that_leaves_the_folder(name: str, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no name of a model"):
        write_repository(bundle, tmp_path / "models", name=name)
    assert names(tmp_path) == []


def test_what_is_refused_writes_nothing(bundles: Bundles, bundle: Path, tmp_path: Path) -> None:
    def refused(message: str, source: Path, repository: str, *backends: str, **options: bool) -> None:
        with pytest.raises((InputError, BundleError), match=message):
            write_repository(source, tmp_path / repository, backends=backends, **options)  # type: ignore[arg-type]

    (tmp_path / "file").write_text("mine")
    (tmp_path / "models" / "text-classification").mkdir(parents=True)
    damaged = Path(shutil.copytree(bundle, tmp_path / "damaged"))
    (damaged / "model.onnx").unlink()
    (damaged / "model.onnx").write_bytes(b"x")
    before = contents(tmp_path)
    refused("Unknown backend 'pytorch'; expected some of python, onnxruntime, tensorrt", bundle, "new", "pytorch")
    refused("Unknown backend ''", bundle, "new")
    refused("cannot be a folder, since a file is there", bundle, "file", "python")
    refused("cannot be a folder, since a file is there", bundle, "file/models", "python")
    refused("is a bundle; give the folder of a model repository", bundle, "damaged", "python")
    refused("'model.onnx' .* has changed since the export", damaged, "new", "python")
    refused("holds no model and will not be replaced", bundle, "models", "python", force=True)
    refused("not served by itself", bundles("text-generation"), "new", *BOTH)
    assert contents(tmp_path) == before
    assert names(tmp_path) == ["damaged", "file", "models"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_models_that_cannot_be_replaced_come_back(
    failing: int, error: BaseException, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each model is two renames: the old one away, the new one to its place."""
    repository = tmp_path / "models"
    write_repository(bundle, repository, backends=BOTH)
    (repository / "mine").mkdir()
    for model in ("text-classification", "text-classification-onnxruntime"):
        (repository / model / "config.pbtxt").write_text("changed by hand")
    before, rename, calls = contents(repository), Path.rename, []

    def fail(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == failing:
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(type(error)):
        write_repository(bundle, repository, backends=BOTH, force=True)
    monkeypatch.undo()
    assert contents(repository) == before
    assert names(tmp_path) == ["models"]
    write_repository(bundle, repository, backends=BOTH, force=True)
    assert "changed by hand" not in (repository / "text-classification" / "config.pbtxt").read_text()
    assert names(tmp_path) == ["models"]


def test_a_process_that_is_killed_leaves_nothing_for_long(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models"
    write_repository(bundle, repository)
    before = contents(repository)
    child = os.fork()
    if not child:
        rename: Callable[[Path, Path], Path] = Path.rename

        def kill(path: Path, target: Path) -> Path:
            rename(path, target)
            os.kill(os.getpid(), signal.SIGKILL)
            return target

        monkeypatch.setattr(Path, "rename", kill)
        try:
            write_repository(bundle, repository, force=True)
        finally:
            os._exit(1)
    os.waitpid(child, 0)
    assert names(repository) == []  # moved away, and nothing in its place
    write_repository(bundle, repository, name="other")
    assert names(tmp_path) == ["models"]
    assert names(repository) == ["other", "text-classification"]
    shutil.rmtree(repository / "other")
    assert contents(repository) == before


def test_another_disk_at_the_repositorys_place_is_named(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()

    def across(path: Path, target: Path) -> Path:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "rename", across)
    with pytest.raises(InputError, match="is where another disk is mounted"):
        write_repository(bundle, tmp_path / "models")


def test_two_writers_of_one_new_repository(bundle: Path, tmp_path: Path) -> None:
    code = "import sys; from xlm_export.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "triton", str(bundle), str(tmp_path / "models"), "--name"]
    writers = [subprocess.Popen([*words, f"model{number}"], stdout=subprocess.DEVNULL) for number in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert names(tmp_path / "models") == ["model0", "model1"]
    assert names(tmp_path) == ["models"]
