"""The commands `question-answering` and `evaluate`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Bundles
from tests.runtime.question_answering.test_squad_files import CONTEXTS, squad, squad_2
from xlm_runtime import pipeline
from xlm_runtime.cli import main as cli
from xlm_runtime.cli.evaluate import progress_bar

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def call(*arguments: object, stdin: str | None = None) -> tuple[int, str, str]:
        stream = SimpleNamespace(buffer=io.BytesIO((stdin or "").encode()), isatty=lambda: stdin is None)
        monkeypatch.setattr(sys, "stdin", stream)
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(squad_2()), encoding="utf-8")
    return path


def test_questions_on_one_context(run: Run, bundles: Bundles) -> None:
    folder = bundles("question-answering-simple")
    code, out, err = run(
        "question-answering", folder, "--question", "Who?", "--question", "Where?", "--context", CONTEXTS[0], "--json"
    )
    assert (code, err) == (0, "")
    expected = pipeline("question-answering", folder)(["Who?", "Where?"], context=CONTEXTS[0])
    assert [json.loads(line)["answer"] for line in out.splitlines()] == [item["answer"] for item in expected]
    code, out, _ = run("question-answering", folder, "--question", "Who?", "--context", CONTEXTS[0], "--doc-stride", 9)
    assert code == 0
    assert out.startswith("Who?\n  0.0")
    code, out, _ = run(
        "question-answering", folder, "Who?", "--context", CONTEXTS[1], "--stride-check", 7, "--top-k", 2
    )
    assert code == 0
    assert "stride 7" in out


def test_json_lines(run: Run, bundles: Bundles) -> None:
    lines = [{"question": "Who?", "context": CONTEXTS[1], "lang": "en"}, {"question": "Wo?", "context": CONTEXTS[0]}]
    folder = bundles("question-answering-simple")
    code, out, err = run("question-answering", folder, "-", "--json", stdin="\n".join(map(json.dumps, lines)))
    assert (code, err) == (0, "")
    expected = pipeline("question-answering", folder)(lines)
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(item["start"], item["end"]) for item in answers] == [(item["start"], item["end"]) for item in expected]
    code, out, err = run("question-answering", folder, "-", stdin='{"question": "Who?"}')
    assert code == 1
    assert err.startswith("xlm-runtime: error: line 1: The question 'Who?' has no context")


def test_evaluate(run: Run, bundles: Bundles, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    code, out, err = run("evaluate", bundles("question-answering"), data, "--output-dir", folder, "--lang", "en")
    assert (code, err) == (0, "")
    assert out.startswith("data.json: 3 questions, version v2.0, language en, ")
    for part in ("exact match", "with answer", "without", "best thresholds", "predictions.json"):
        assert part in out
    assert max(map(len, out.splitlines()[:-1])) <= 100
    assert set(json.loads((folder / "predictions.json").read_text())) == {"q1", "q2", "q3"}
    code, out, _ = run("evaluate", bundles("question-answering"), data, "--output-dir", folder, "--json", "--limit", 2)
    figures = json.loads(out)
    assert (figures["total"], figures["HasAns_total"]) == (2, 2)


def test_predictions_go_beside_by_default(
    run: Run, bundles: Bundles, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("evaluate", bundles("question-answering-simple"), data)[0] == 0
    assert len(list((tmp_path / "data-predictions").iterdir())) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--doc-stride", 60], "doc_stride 60 is not smaller than the window: max_seq_len 64 leaves 41 tokens"),
        (["--max-seq-len", 65], "max_seq_len 65 is more than the 64 positions"),
        (["--limit", 0], "--limit is 0"),
        (["--lang", "xx"], "Unknown lang 'xx'"),
        (["--metric", "mlqa"], "MLQA's metric needs the answers' language"),
    ],
)
def test_errors(run: Run, bundles: Bundles, data: Path, tmp_path: Path, arguments: list[Any], message: str) -> None:
    code, out, err = run("evaluate", bundles("question-answering"), data, "--output-dir", tmp_path / "o", *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_file_of_another_shape_is_named(run: Run, bundles: Bundles, tmp_path: Path) -> None:
    values = squad()
    del values["data"][1]["paragraphs"][0]["qas"][0]["answers"]
    (tmp_path / "odd.json").write_text(json.dumps(values))
    code, _, err = run("evaluate", bundles("question-answering"), tmp_path / "odd.json")
    assert code == 1
    assert "'data[1].paragraphs[0].qas[0].answers' is missing" in err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("with_tqdm", [False, True])
def test_progress_shows_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, with_tqdm: bool) -> None:
    if with_tqdm:
        pytest.importorskip("tqdm", reason="the bar itself is tqdm's")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with progress_bar(20) as progress:
            for done in range(1, 21):
                progress(done)
        assert bool(stream.getvalue()) == shown
        assert ("20" in stream.getvalue()) == shown
