"""Files appear whole or not at all, and nothing else stays behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xlm_runtime.bundle.atomic import drafts, write_bytes, write_json, write_text


def test_what_is_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"one", b"", b"two")
    write_text(tmp_path / "b", "größer\n")
    write_json(tmp_path / "c", {"ключ": [1]})
    assert (tmp_path / "a").read_bytes() == b"onetwo"
    assert (tmp_path / "b").read_bytes() == "größer\n".encode()
    assert (tmp_path / "c").read_text(encoding="utf-8") == '{\n "ключ": [\n  1\n ]\n}\n'
    write_json(tmp_path / "c", [1, 2])
    assert json.loads((tmp_path / "c").read_text()) == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_exception_changes_nothing(error: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("before")

    def write() -> None:
        with drafts(tmp_path / "a", tmp_path / "b") as (first, second):
            first.write_text("after")
            assert first.name.startswith(".")
            second.write_text("half")
            assert (tmp_path / "a").read_text() == "before"
            raise error

    with pytest.raises(type(error)):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_several_files_appear_together(tmp_path: Path) -> None:
    with drafts(tmp_path / "a", tmp_path / "b") as made:
        for draft in made:
            draft.write_text("whole")
        assert not (tmp_path / "a").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_values_that_are_no_json(tmp_path: Path) -> None:
    write_json(tmp_path / "a", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a", {"path": tmp_path})
    assert (tmp_path / "a").read_text() == "1\n"
