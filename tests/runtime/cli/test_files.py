"""`--input` and `--output`: whole files through the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.runtime.cli.conftest import Run
from tests.runtime.jobs.echo import KEYS, answer
from tests.runtime.texts import LANGS, TEXTS
from xlm_runtime import pipeline
from xlm_runtime.cli import tasks
from xlm_runtime.model.batching import BatchOptions

CLASSIFY = "text-classification"


@pytest.fixture
def folder(bundles: Bundles) -> Path:
    return bundles(CLASSIFY)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "text", "lang", "label"])
        rows.writerows((number, TEXTS[number % 7], LANGS[number % 7], "gold") for number in range(600))
    return path


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_file_equals_the_pipeline(run: Run, folder: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    code, out, err = run(CLASSIFY, folder, "--input", source, "--output", output)
    assert (code, out, err) == (0, "", f"xlm-runtime: 600 rows, answers in {output}\n")
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = pipeline(CLASSIFY, folder)(
        [{"text": text, "lang": lang} for text, lang in zip(TEXTS, LANGS, strict=True)]
    )
    assert [row["id"] for row in rows] == [str(number) for number in range(600)]
    for number, row in enumerate(rows):
        expected = answers[number % 7]
        assert (row["label"], row["answer.label"]) == ("gold", expected["label"])
        assert float(row["answer.score"]) == pytest.approx(expected["score"], abs=1e-4)


def test_a_job_that_was_ended_goes_on(run: Run, folder: Path, source: Path, tmp_path: Path) -> None:
    bad = source.read_text(encoding="utf-8").splitlines()
    bad[550] = "549,a"
    source.write_text("\n".join(bad), encoding="utf-8")
    command = (CLASSIFY, folder, "--input", source, "--top-k", "2", "--output")
    code, _, err = run(*command, tmp_path / "out.jsonl")
    message = (
        "line 551: the row has 2 fields, and the header 4. 512 rows are done; the same command with --on-error skip"
    )
    assert (code, err) == (1, f"xlm-runtime: error: {message} goes on behind them.\n")
    code, _, err = run(*command, tmp_path / "out.jsonl", "--on-error", "skip", "--threads", "1")
    assert code == 3
    assert "goes on behind 512 rows\n" in err
    assert "600 rows, 1 failed (see " in err
    run(*command, tmp_path / "whole.jsonl", "--on-error", "skip")
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    (failed,) = lines(tmp_path / "out.jsonl.errors.jsonl")
    assert failed["error"]["item"] == 551


@pytest.mark.parametrize("cut", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_cuts_a_job_is_said(
    run: Run, folder: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, cut: Any
) -> None:
    calls = 0

    def answer_or_cut(items: Any, **_: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise cut
        return answer(items)

    opened = SimpleNamespace(model=None, batching=BatchOptions(), input_keys=KEYS, answer=answer_or_cut)
    monkeypatch.setattr(tasks, "open_pipeline", lambda task, args: opened)
    command = (CLASSIFY, folder, "--input", source, "--output", tmp_path / "out.jsonl")
    said = "xlm-runtime: stopped behind 512 rows; the same command goes on there\n"
    if isinstance(cut, KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            run(*command)
        assert capsys.readouterr().err == said
    else:
        code, _, err = run(*command)
        assert (code, err) == (1, f"{said}xlm-runtime: error: {cut}\n")
    code, _, err = run(*command, "--top-k", "3")
    assert (code, "was begun with --top-k 1 (now 3)" in err) == (1, True)
    code, _, err = run(*command)
    assert (code, err.splitlines()[0]) == (0, "xlm-runtime: goes on behind 512 rows")
    assert len(lines(tmp_path / "out.jsonl")) == 600


def test_a_changed_bundle_is_another_job(run: Run, changed_bundle: Any, tmp_path: Path) -> None:
    source = tmp_path / "in.txt"
    source.write_text("good\n" * 300 + "\n", encoding="utf-8")
    first = changed_bundle(CLASSIFY)
    command = (CLASSIFY, first, "--input", source, "--output", tmp_path / "out.jsonl")
    assert "256 rows are done" in run(*command)[2]
    contents = json.loads((first / "bundle.json").read_text(encoding="utf-8"))
    contents["files"]["vocab.json"] = "0" * 64
    (first / "bundle.json").write_text(json.dumps(contents), encoding="utf-8")
    code, _, err = run(*command)
    assert (code, "was begun with another bundle. Run the command that began it" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "{in}"], "--input and --output go together"),
        (["--input", "{in}", "--output", "{in}"], "is the input itself"),
        (["--input", "{in}", "--output", "o.jsonl", "Good!"], "Texts were given beside --input"),
        (["--input", "{in}", "--output", "o.jsonl", "--json"], "--json prints answers"),
        (["--input", "{in}", "--output", "o.jsonl", "--columns", "text=x"], "There is no column 'x'; the file has the"),
        (["--input", "{in}", "--output", "o.jsonl", "--columns", "a,a"], "--columns is 'a,a'; expected names"),
        (["--input", "{in}", "--output", "out"], "The name 'out' does not say what the file holds"),
        (["--input", ".", "--output", "o.jsonl", "--input-format", "csv"], "'.' is a folder, expected a file"),
        (
            ["--input", "{in}", "--output", "o.jsonl", "--workers", "2"],
            "--workers is for workers of Ray; give --ray, too",
        ),
        (["--input", "{in}", "--output", "o.jsonl", "--ray", "--workers", "0"], "The number of workers is 0; expected"),
        (["--input", "{in}", "--output", "o.jsonl", "--ray", "--gpus-per-worker", "1"], "'cpu' computes on the CPU"),
        (["Good!", "--ray"], "--ray is for files; give --input and --output, too."),
        (["--format", "csv", "Good!"], "--format is for files; give --input and --output, too."),
    ],
)
def test_what_is_refused(
    run: Run, folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(source.parent)
    code, out, err = run(CLASSIFY, folder, *(str(source) if word == "{in}" else word for word in words))
    assert (code, out) == (1, "")
    assert err.startswith("xlm-runtime: error: ")
    assert message in err
    assert [path.name for path in source.parent.iterdir()] == ["in.csv"]
