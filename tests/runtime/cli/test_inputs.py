"""What people's lines look like: marks at their start, keys of their own, lines that are none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.runtime.cli.conftest import Run
from tests.runtime.texts import TEXTS, TOO_LONG

CLASSIFY = "text-classification"


@pytest.fixture
def folder(bundles: Bundles) -> Path:
    return bundles(CLASSIFY)


def in_a_process(words: list[str | bytes], tail: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The command line behind a shell; `tail` redirects."""
    command = ["sh", "-c", f'"$@" {tail}', "sh", sys.executable, "-m", "xlm_runtime.cli", *words]
    return subprocess.run(command, capture_output=True, env=os.environ | environment, check=False)


def test_a_byte_order_mark_is_dropped(run: Run, folder: Path) -> None:
    lines = json.dumps({"text": TEXTS[0], "lang": "en"}) + "\n" + TEXTS[1] + "\n"
    plain = run(CLASSIFY, folder, "-", "--json", stdin=lines)
    assert plain[0] == 0
    assert run(CLASSIFY, folder, "-", "--json", stdin=b"\xef\xbb\xbf" + lines.encode()) == plain
    assert run(CLASSIFY, folder, "-", stdin="\ufeffGood!\n")[1].startswith("Good!\n")


def test_further_keys_come_back(run: Run, folder: Path) -> None:
    extra = {"id": 7, "label": "gold", "meta": {"a": [1, None]}}
    lines = [{"text": TEXTS[0], **extra}, {"text": TEXTS[1], "lang": "ru"}, {"id": "b", "text": ""}]
    code, out, err = run(
        CLASSIFY, folder, "-", "--json", "--on-error", "return", stdin="\n".join(map(json.dumps, lines))
    )
    assert (code, err) == (3, "")
    first, second, third = map(json.loads, out.splitlines())
    bare = json.loads(run(CLASSIFY, folder, TEXTS[0], "--json")[1])
    assert {**first, "answer": first["answer"]["label"]} == {**extra, "answer": bare["label"]}
    assert set(second) == {"label", "score"}
    message = "The text is empty; give at least one word."
    assert third == {"id": "b", "error": {"item": 3, "type": "InputError", "message": message}}
    # in a table the id stands before the text
    assert run(CLASSIFY, folder, "-", stdin=json.dumps(lines[0]))[1].startswith("7 | The old lighthouse")
    for key in ("answer", "error"):
        code, _, err = run(CLASSIFY, folder, "-", stdin=json.dumps({"text": "a", key: 1}))
        assert (code, err.split(":")[2].strip()) == (1, "line 1")
        assert f"'{key}' is where the answer is put" in err


def test_answers_that_are_lists_come_back_with_the_id(run: Run, bundles: Bundles) -> None:
    folder, line = bundles("token-classification"), {"words": ["Anna", "lives", "in", "London"], "id": 1}
    code, out, _ = run("token-classification", folder, "-", "--json", "--ignore-labels", "", stdin=json.dumps(line))
    answer = json.loads(out)
    assert (code, answer["id"]) == (0, 1)
    assert [entity["word"] for entity in answer["answer"]] == line["words"]


def test_a_second_text_is_never_passed_by(run: Run, bundles: Bundles) -> None:
    line = json.dumps({"text": "a", "text_pair": "b"})
    code, _, err = run("feature-extraction", bundles("feature-extraction"), "-", stdin=line)
    assert code == 1
    assert "line 1: Unknown key 'text_pair'" in err


BAD = {
    2: (b"", "The text is empty"),
    4: (TOO_LONG.encode(), "has 122 tokens"),
    5: (b'{"text": "a", "lang": "xx"}', "Unknown lang 'xx'"),
    6: (b'{"txt": "a"}', "'text' is missing"),
    7: (b'{"text": ', "not a JSON object"),
    8: (b"M\xfcller", "not UTF-8"),
    9: (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
}
LINES = [BAD[number][0] if number in BAD else TEXTS[0].encode() for number in range(1, 12)]


@pytest.mark.parametrize("options", [(), ("--unbuffered",)])
def test_lines_that_cannot_be_used(run: Run, folder: Path, options: tuple[str, ...]) -> None:
    stdin = b"\n".join(LINES)
    code, out, err = run(CLASSIFY, folder, "-", "--json", *options, stdin=stdin)
    assert (code, len(out.splitlines())) == (1, 1)
    assert err.startswith("xlm-runtime: error: line 2: The text is empty")
    expected = json.loads(out)["label"]

    code, out, err = run(CLASSIFY, folder, "-", "--json", "--on-error", "return", *options, stdin=stdin)
    assert (code, err) == (3, "")
    answers = [json.loads(line) for line in out.splitlines()]
    for number, answer in enumerate(answers, start=1):
        if number in BAD:
            assert answer["error"]["item"] == number
            assert BAD[number][1] in answer["error"]["message"]
        else:
            assert answer["label"] == expected
    assert len(answers) == len(LINES)

    code, out, err = run(CLASSIFY, folder, "-", "--json", "--on-error", "skip", *options, stdin=stdin)
    assert (code, len(out.splitlines())) == (3, len(LINES) - len(BAD))
    assert err.startswith("xlm-runtime: 7 left out, the first is line 2: The text is empty")
    table = run(CLASSIFY, folder, "-", "--on-error", "return", *options, stdin=stdin)[1].splitlines()
    assert table[2:4] == ["", "  error  The text is empty; give at least one word."]


def test_texts_that_cannot_be_used(run: Run, folder: Path) -> None:
    assert "error: text 2: The text is empty" in run(CLASSIFY, folder, "Good!", "")[2]
    assert "error: The text is empty" in run(CLASSIFY, folder, "")[2]
    code, out, _ = run(CLASSIFY, folder, "Good!", "", "--json", "--on-error", "skip")
    assert (code, len(out.splitlines())) == (3, 1)


def test_a_stream_goes_on(run: Run, bundles: Bundles) -> None:
    lines = "the old town\n{\nthe old town\n"
    command = ("text-generation", bundles("text-generation"), "-", "--stream", "--max-new-tokens", "3")
    code, out, err = run(*command, stdin=lines)
    assert (code, len(out.splitlines())) == (1, 1)
    assert "line 2: not a JSON object" in err
    code, out, _ = run(*command, "--on-error", "return", stdin=lines)
    assert code == 3
    first, _, error, third = out.splitlines()
    assert (first, error[:16]) == (third, "  error  not a J")


@pytest.mark.parametrize("depth", [10, 300, 900, 1100, 3000, 50_000])
def test_nested_lines_are_answered_or_refused(run: Run, folder: Path, depth: int) -> None:
    line = '{"text": "Good!", "deep": ' + "[" * depth + "]" * depth + "}"
    code, out, err = run(CLASSIFY, folder, "-", "--json", stdin=line)
    assert (code, "nested too deeply" in err) == ((0, False) if out else (1, True))
    assert out or depth > 300


def test_two_hyphens_end_the_options(run: Run, folder: Path) -> None:
    expected = [json.loads(run(CLASSIFY, folder, "-", "--json", stdin=text)[1]) for text in ("--json", "-x y", "--")]
    for words in (["--json", folder, "--"], [folder, "--json", "--"]):
        code, out, err = run(CLASSIFY, *words, "--json", "-x y", "--")
        assert (code, err) == (0, "")
        labels = [json.loads(line)["label"] for line in out.splitlines()]
        assert labels == [answer["label"] for answer in expected]
    assert run(CLASSIFY, "--", folder, "-x y")[1].startswith("-x y\n")
    assert run(CLASSIFY, folder, "--", "-", stdin="Good!")[1].startswith("Good!\n")
    assert run("info", "--", "-bundle")[2] == run("info", "./-bundle")[2].replace("./", "")
    assert "unrecognized arguments: -x" in run("info", folder, "--", "-x")[2]


@pytest.mark.slow(seconds=10)
def test_bytes_that_are_no_utf_8_in_every_locale(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.write_bytes("Старый маяк\nMüller\n".encode() + "Müller\n".encode("latin-1"))
    command: list[str | bytes] = [CLASSIFY, str(folder), "-", "--json", "--on-error", "return"]
    here = in_a_process(command, f"< {lines}")
    assert here.returncode == 3
    assert b"not UTF-8" in here.stdout.splitlines()[2]
    for locale in ({"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}):
        assert in_a_process(command, f"< {lines}", **locale).stdout == here.stdout
        written: list[str | bytes] = ["Старый маяк".encode(), "Müller".encode(), "Müller".encode("latin-1")]
        assert in_a_process([*command[:2], *written, *command[3:]], **locale).stdout == here.stdout
    option = in_a_process(["fill-mask", "bundle", "<mask>", "--target", b"M\xfcller"], LC_ALL="C")
    assert (option.returncode, b"argument --target: not UTF-8" in option.stderr) == (2, True)


@pytest.mark.slow(seconds=5)
def test_closed_streams(folder: Path) -> None:
    command: list[str | bytes] = [CLASSIFY, str(folder)]
    for words in (command, [*command, "-"]):
        done = in_a_process(words, "<&-")
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.startswith(b"xlm-runtime: error: Standard input is closed; write texts behind the bundle")
    assert in_a_process([*command, "Good!"], "<&-").returncode == 0
    done = in_a_process([*command, "Good!"], ">&-")
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"Standard output is closed" in done.stderr


@pytest.mark.parametrize("threads", ["0", "-1", "1025", "2147483648", "9" * 30])
def test_numbers_of_threads(run: Run, folder: Path, threads: str) -> None:
    for command in ([CLASSIFY, folder, "Good!"], ["autotune", folder]):
        code, out, err = run(*command, "--threads", threads)
        assert (code, out) == (1, "")
        assert err == f"xlm-runtime: error: threads is {threads}; expected a positive number, at most 1,024.\n"


def test_windows_on_the_command_line(run: Run, bundles: Bundles) -> None:
    for task in ("token-classification", "feature-extraction"):
        code, _, err = run(task, bundles(task), TOO_LONG)
        assert (code, "with stride (--stride)" in err) == (1, True)
        assert run(task, bundles(task), TOO_LONG, "--stride", "8")[0] == 0
        assert "choose one" in run(task, bundles(task), TOO_LONG, "--stride", "8", "--truncation")[2]
    assert (
        "max_length is 65; expected a number from 3 to 64"
        in run(CLASSIFY, bundles(CLASSIFY), "Good!", "--max-length", "65")[2]
    )
