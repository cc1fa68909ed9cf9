"""The command line: answers, JSON Lines, tables, exit codes and error lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Bundles
from tests.runtime.cli.conftest import Run
from tests.runtime.texts import TEXTS, TOO_LONG
from xlm_runtime import pipeline
from xlm_runtime.cli import main as cli
from xlm_runtime.cli import tables, tasks
from xlm_runtime.cli.commands import COMMANDS
from xlm_runtime.pipelines import PIPELINES

EXAMPLES = {
    "feature-extraction": ("feature-extraction", ["--pooling", "mean"], TEXTS[0]),
    "fill-mask": ("fill-mask", ["--top-k", "2"], "The <mask> stands."),
    "text-generation": ("text-generation", ["--num-beams", "2", "--max-new-tokens", "5"], TEXTS[0]),
    "text-classification": ("text-classification", ["--top-k", "all"], TEXTS[0]),
    "zero-shot-classification": ("text-classification", ["--labels", "sea,work"], TEXTS[0]),
    "multiple-choice": ("multiple-choice", ["--choice", "Yes.", "--choice", "No."], TEXTS[0]),
    "token-classification": ("token-classification", ["--aggregation-strategy", "first"], TEXTS[2]),
    "question-answering": ("question-answering", ["--context", TEXTS[1] * 3, "--top-k", "2"], TEXTS[0]),
}


def test_every_pipeline_has_a_command() -> None:
    assert set(tasks.COMMANDS) == set(PIPELINES) == set(EXAMPLES)
    assert set(tasks.COMMANDS) == {name for name, row in COMMANDS.items() if row.module == tasks.__name__}


@pytest.mark.parametrize("task", EXAMPLES)
def test_json_equals_the_pipeline(run: Run, bundles: Bundles, task: str) -> None:
    name, options, text = EXAMPLES[task]
    code, out, err = run(task, bundles(name), text, text, "--json", "--lang", "de", *options)
    assert (code, err) == (0, "")
    answers = [json.loads(line) for line in out.splitlines()]
    parsed = cli.build_parser(task).parse_args([task, "bundle", "text", "--lang", "de", *options])
    opened = pipeline(task, bundles(name))
    options = tasks.COMMANDS[task].options(parsed)(opened.model)
    expected = opened.answer(text, lang="de", options=options)
    assert len(answers) == 2
    assert rounded(answers[0]) == rounded(answers[1]) == rounded(expected)


def rounded(value: Any) -> Any:
    """The value with every number rounded to three digits: batches round differently."""
    if isinstance(value, float):
        return round(value, 3) + 0.0
    if isinstance(value, np.ndarray):
        return rounded(value.tolist())
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("task", EXAMPLES)
@pytest.mark.parametrize("columns", ["80", "40"])
def test_tables_fit_the_terminal(run: Run, bundles: Bundles, monkeypatch, task: str, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    name, options, text = EXAMPLES[task]
    mask = " <mask>" if task == "fill-mask" else ""
    code, out, _ = run(task, bundles(name), text, TEXTS[4] + mask, "我们明天早上去山里看雪。" * 4 + mask, *options)
    assert code == 0
    assert out.startswith(text[:20])
    assert max(tables.display_width(line) for line in out.splitlines()) <= int(columns)


def test_json_lines_in(run: Run, bundles: Bundles) -> None:
    folder = bundles("text-classification")
    pair = {"text": TEXTS[0], "text_pair": TEXTS[3], "lang": "fr"}
    code, out, err = run(
        "text-classification", folder, "-", "--json", stdin=f"{TEXTS[1]}\n{json.dumps(pair)}\n{TEXTS[2]}\n"
    )
    assert (code, err) == (0, "")
    expected = pipeline("text-classification", folder)([TEXTS[1], pair, TEXTS[2]])
    assert [json.loads(line)["label"] for line in out.splitlines()] == [answer["label"] for answer in expected]
    assert (
        run("text-classification", folder, "--json", "--unbuffered", stdin=f"{TEXTS[1]}\n")[1]
        == out.splitlines(True)[0]
    )


def test_a_bad_line_is_named_and_the_lines_before_are_answered(run: Run, bundles: Bundles) -> None:
    code, out, err = run("text-classification", bundles("text-classification"), "-", stdin="good\nfilm\n\nbook\n")
    assert code == 1
    assert out.splitlines()[::2] == ["good", "film"]
    assert err == "xlm-runtime: error: line 3: The text is empty; give at least one word.\n"


@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ('{"text": "a"', "line 1: not a JSON object"),
        ('{"txt": "a"}', "line 1: 'text' is missing"),
        (b"\xff\xfe", "line 1: not UTF-8"),
        (TOO_LONG, "line 1: The text 'the old town"),
    ],
)
def test_bad_lines(run: Run, bundles: Bundles, stdin: str | bytes, message: str) -> None:
    code, out, err = run("text-classification", bundles("text-classification"), "-", stdin=stdin)
    assert (code, out) == (1, "")
    assert err.startswith(f"xlm-runtime: error: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fill-mask", "{fill-mask}", "no mask here"], "No mask in the text 'no mask here'"),
        (
            ["fill-mask", "{fill-mask}", TOO_LONG + "<mask>"],
            "positions. Split it, or cut it with truncation=True (--trunc",
        ),
        (
            ["fill-mask", "{fill-mask}", "<mask>", "--lang", "xx"],
            "Unknown lang 'xx'; this bundle knows de, en, fr, ru.",
        ),
        (["fill-mask", "{fill-mask}", ""], "The text is empty"),
        (["fill-mask", "{text-classification}", "<mask>"], "was exported for the task text-classification"),
        (["fill-mask", "{fill-mask}", "<mask>", "--provider", "tpu"], "Unknown provider 'tpu'"),
        (["fill-mask", "{fill-mask}", "<mask>", "--precision", "int3"], "no graph in precision 'int3'"),
        (["fill-mask", "absent", "<mask>"], "Folder 'absent' not found"),
        (["fill-mask", "{fill-mask}"], "No text was given"),
        (["info", "absent"], "Folder 'absent' not found"),
    ],
)
def test_errors_take_one_line(run: Run, bundles: Bundles, arguments: list[str], message: str) -> None:
    filled = [str(bundles(word.strip("{}"))) if word.startswith("{") else word for word in arguments]
    code, out, err = run(*filled)
    assert (code, out) == (1, "")
    assert err.startswith("xlm-runtime: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_usage_errors_exit_with_2(run: Run, bundles: Bundles) -> None:
    for arguments in ([], ["ner", "b"], ["fill-mask"], ["fill-mask", "b", "a", "--topk"], ["info", "b", "c"]):
        code, out, err = run(*arguments)
        assert (code, out) == (2, "")
        assert "usage: xlm-runtime" in err


def test_options_may_stand_anywhere(run: Run, bundles: Bundles) -> None:
    folder = bundles("text-classification")
    before = run("text-classification", "--json", folder, "Good!", "town")
    assert before[0] == 0
    assert run("text-classification", folder, "--json", "Good!", "town") == before
    assert run("text-classification", folder, "Good!", "town", "--json") == before


def test_info(run: Run, bundles: Bundles) -> None:
    folder = bundles("text-classification")
    code, out, _ = run("info", folder)
    assert code == 0
    parts = (
        "text-classification (XLMForSequenceClassification)",
        "4: de, en, fr, ru",
        "without lang  no language embedding, as in transformers without langs",
        "model.onnx: fp32",
        "attention_mask int64 (batch,",
        "contradiction, entailment, neutral",
        "vocab.json, 6.7 kB",
    )
    for part in parts:
        assert part in out
    assert max(map(len, out.splitlines())) <= 80
    code, out, _ = run("info", folder, "--json")
    values = json.loads(out)
    assert values["task"] == "text-classification"
    assert values["languages"] == ["de", "en", "fr", "ru"]
    assert values["sizes"]["model.onnx"] == (folder / "model.onnx").stat().st_size


def test_info_shows_failed_bundles(run: Run, changed_bundle: Callable[..., Path]) -> None:
    code, out, _ = run("info", changed_bundle("fill-mask", entries={"verification": {"status": "failed"}}))
    assert code == 0
    assert "verification  failed" in out


def test_interrupts_reach_the_program_and_broken_pipes_are_quiet(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "open_pipeline", interrupt)
    with pytest.raises(KeyboardInterrupt):  # which `xlm_runtime.__main__` turns into one line and 130
        run("fill-mask", "bundle", "<mask>")
    lines = "the old town\n" * 20000
    command = [
        sys.executable,
        "-m",
        "xlm_runtime",
        "text-classification",
        str(bundles("text-classification")),
        "-",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        process.stdin.write(lines[:13000])
        process.stdin.flush()
        assert process.stdout.readline() == "the old town\n"
        process.stdout.close()
        process.stdin.write(lines)
        process.stdin.close()
    except BrokenPipeError:
        pass
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


def test_answers_are_utf_8_whatever_the_locale(bundles: Bundles) -> None:
    command = [
        sys.executable,
        "-m",
        "xlm_runtime.cli",
        "text-classification",
        str(bundles("text-classification")),
        "-",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, input="Старый маяк\n".encode(), capture_output=True, env=environment, check=True)
    assert done.stdout.decode("utf-8").splitlines()[0] == "Старый маяк"


def test_widths() -> None:
    assert tables.display_width("雪a\u0301") == 3
    assert tables.shorten("雪" * 10, 9) == "雪" * 4 + "…"
    assert tables.shorten("a  b\nc", 9) == "a b c"
