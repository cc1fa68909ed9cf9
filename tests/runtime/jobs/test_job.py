"""Jobs that are cut, by whatever, end as one that was not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.jobs import echo, killed
from xlm_runtime.errors import InputError
from xlm_runtime.jobs.part import open_part

ROWS = [{"id": number, "text": f"word{number} " * (number % 7)} for number in range(50)]  # every seventh is empty
FAILED = [row["id"] for row in ROWS if not row["text"]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    return path


def cut_at(rows: int, error: BaseException) -> Any:
    """An `answer` that fails behind so many rows."""
    given = 0

    def answer(items: Iterable[Any]) -> Iterator[Any]:
        nonlocal given
        for each in echo.answer(items):
            if given == rows:
                raise error
            given += 1
            yield each

    return answer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_in_order_with_ids_and_failed_rows_beside(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    seen: list[tuple[int, int]] = []
    state = echo.run(source, output, progress=lambda rows, end: seen.append((rows, end)))
    assert (state.rows, state.failed) == (50, len(FAILED))
    assert [row["id"] for row in lines(output)] == [row["id"] for row in ROWS if row["text"]]
    assert lines(output)[0] == {"id": 1, "answer": {"label": "word1", "score": 2.0}}
    failed = lines(tmp_path / "out.jsonl.errors.jsonl")
    error = {"item": 8, "type": "InputError", "message": "The text is empty."}
    assert failed[1] == {"id": 7, "error": error}
    assert [row["id"] for row in failed] == FAILED
    assert (seen[0], seen[-1]) == ((0, 0), (50, source.stat().st_size))
    assert names(tmp_path) == ["in.jsonl", "out.jsonl", "out.jsonl.errors.jsonl"]

    echo.run(source, output, on_error="return", force=True)
    assert [row["id"] for row in lines(output)] == list(range(50))
    assert lines(output)[7] == failed[1]
    source.write_text('"good"\n', encoding="utf-8")
    echo.run(source, output, force=True)
    assert names(tmp_path) == ["in.jsonl", "out.jsonl"]  # nothing of the output before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forks")
@pytest.mark.parametrize(("seed", "suffix"), enumerate([".jsonl", ".csv", ".txt", ".parquet"]))
def test_killed_anywhere(source: Path, tmp_path: Path, suffix: str, seed: int) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    output, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    command = [sys.executable, "-m", killed.__name__, str(source), str(output), str(seed), "12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert output.read_bytes() == whole.read_bytes()
    beside, failed = (f"{path.name}.errors.jsonl" for path in (output, whole))
    assert (tmp_path / beside).read_bytes() == (tmp_path / failed).read_bytes()
    assert {*names(tmp_path)} - {f"{output.name}.part.lock"} == {source.name, output.name, whole.name, beside, failed}


@pytest.mark.parametrize("cut", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("engine")])
def test_what_was_done_is_not_done_again(source: Path, tmp_path: Path, cut: BaseException) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(type(cut)):
        echo.run(source, output, cut_at(30, cut))
    assert not output.exists()
    seen: list[tuple[int, int]] = []
    state = echo.run(source, output, progress=lambda rows, end: seen.append((rows, end)))
    assert seen[0] == (28, sum(len(line) for line in source.read_bytes().splitlines(True)[:28]))
    assert (state.rows, state.failed) == (50, len(FAILED))
    echo.run(source, tmp_path / "whole.jsonl")
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_full_disk(source: Path, tmp_path: Path, suffix: str) -> None:
    """A file that may not grow further, by the system's own limit."""
    resource = pytest.importorskip("resource")
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    output, whole = tmp_path / f"out{suffix}", tmp_path / f"whole{suffix}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            echo.run(source, output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert json.loads((tmp_path / f"{output.name}.part.json").read_text())["state"]["rows"] > 0
    echo.run(source, output)
    echo.run(source, whole)
    assert output.read_bytes() == whole.read_bytes()


def test_a_row_that_ends_the_job_can_be_skipped(source: Path, tmp_path: Path) -> None:
    source.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS[1:]), encoding="utf-8")
    output = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=r"^line 7: The text is empty\. 4 rows are done; .* --on-error skip goes on"):
        echo.run(source, output, on_error="raise")
    assert echo.run(source, output, on_error="skip").rows == 49


def test_nothing_done_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^line 1: The text is empty\.$"):
        echo.run(source, tmp_path / "out.jsonl", on_error="raise")
    assert names(tmp_path) == ["in.jsonl"]


def test_another_job_is_refused(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        echo.run(source, output, cut_at(10, KeyboardInterrupt()), identity={"top_k": 1})
    with pytest.raises(InputError, match=r"was begun with --top-k 1 \(now 2\).*--restart"):
        echo.run(source, output, identity={"top_k": 2})
    source.write_text(source.read_text() + "{}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"was begun with another input.*--restart"):
        echo.run(source, output, identity={"top_k": 1})
    assert echo.run(source, output, identity={"top_k": 2}, restart=True).rows == 51
    with pytest.raises(InputError, match=r"is there already; --force replaces it"):
        echo.run(source, output)
    assert echo.run(source, output, force=True).rows == 51


def test_an_input_that_changes_meanwhile(source: Path, tmp_path: Path) -> None:
    def answer(items: Iterable[Any]) -> Iterator[Any]:
        with source.open("a", encoding="utf-8") as file:
            file.write('"more"\n')
        return echo.answer(items)

    source.write_text('"one"\n', encoding="utf-8")
    with pytest.raises(InputError, match="changed while it was read"):
        echo.run(source, tmp_path / "out.jsonl", answer)
    assert not (tmp_path / "out.jsonl").exists()


def test_two_at_once_and_parts_that_are_none(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with open_part(output, {}), pytest.raises(InputError, match="Another process writes"):
        echo.run(source, output)
    (tmp_path / "out.jsonl.part").write_text("mine")
    with pytest.raises(InputError, match=r"is there without 'out\.jsonl\.part\.json'"):
        echo.run(source, output)
    (tmp_path / "out.jsonl.part.json").write_text("{")
    with pytest.raises(InputError, match=r"is damaged .*--restart"):
        echo.run(source, output)
    assert echo.run(source, output, restart=True).rows == 50
    with pytest.raises(InputError, match=r"Folder '.*absent' not found"):
        echo.run(source, tmp_path / "absent" / "out.jsonl")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match=r"is there already; give a file's name"):
        echo.run(source, tmp_path / "folder.jsonl")


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, expected a file"):
        echo.run(tmp_path, tmp_path / "out.jsonl")
    with pytest.raises(InputError, match=r"File '.*absent\.txt' not found"):
        echo.run(tmp_path / "absent.txt", tmp_path / "out.jsonl")
    (tmp_path / "in.txt").touch()
    with pytest.raises(InputError, match=r"does not say what the file holds; end it in \.csv, \.tsv, \.jsonl"):
        echo.run(tmp_path / "in.txt", tmp_path / "out")
