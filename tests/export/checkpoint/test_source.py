"""Where a checkpoint comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xlm_export import CheckpointError, load_checkpoint
from xlm_export.checkpoint.source import Source, find_source
from xlm_runtime.errors import BundleError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub whose every repository is a folder with a folder `xlm` in it; the calls that it gets."""
    calls: list[dict[str, Any]] = []
    (tmp_path / "snapshot" / "xlm").mkdir(parents=True)

    def snapshot_download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, **options})
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return calls


@pytest.mark.parametrize(
    ("name", "revision", "asked", "called"),
    [
        ("org/name", None, None, "org/name"),
        ("org/name@v1", None, "v1", "org/name@v1"),
        ("org/name@refs/pr/3", None, "refs/pr/3", "org/name@refs/pr/3"),
        ("org/name", "abc123", "abc123", "org/name@abc123"),
        ("org/name@v1", "v1", "v1", "org/name@v1"),
        ("name", None, None, "name"),
    ],
)
def test_revisions(
    hub: list[dict[str, Any]], tmp_path: Path, name: str, revision: str | None, asked: str | None, called: str
) -> None:
    assert find_source(name, revision) == Source(called, tmp_path / "snapshot")
    assert hub[0]["repo_id"] == name.partition("@")[0]
    assert hub[0]["revision"] == asked


def test_subfolders(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    assert find_source("org/name", subfolder="xlm").folder == tmp_path / "snapshot" / "xlm"
    assert "xlm/*.json" in hub[0]["allow_patterns"]
    assert find_source(tmp_path / "snapshot", subfolder="xlm").folder == tmp_path / "snapshot" / "xlm"
    with pytest.raises(CheckpointError, match="'org/name' has no folder 'other'"):
        find_source("org/name", subfolder="other")
    for outside in ("../x", "/etc", "", "a/../../b"):
        with pytest.raises(CheckpointError, match="expected the name of a folder within"):
            find_source("org/name", subfolder=outside)


def test_names_that_are_none(hub: list[dict[str, Any]], tmp_path: Path) -> None:
    for name in ("/nowhere/at/all", "./here", "~/x", "a/b/c", "a\\b", "org/na me"):
        with pytest.raises(CheckpointError, match="not found"):
            find_source(name)
    with pytest.raises(CheckpointError, match="names the revision 'v1', and revision is 'v2'"):
        find_source("org/name@v1", "v2")
    with pytest.raises(CheckpointError, match=r"revision 'v1' was given, but .* is a folder here"):
        find_source(tmp_path, "v1")
    assert not hub


def test_other_folders_and_names(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'FacebookAI/xlm-mlm-en-2048' is no folder.*give the folder"):
        find_source("FacebookAI/xlm-mlm-en-2048", offline=True)
    with pytest.raises(BundleError, match=r"'config\.json' not found"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="No weights found"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="is a file"):
        find_source(tmp_path / "config.json")
