"""First contact: help, versions, typing errors and interrupts."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec

import pytest

from xlm_runtime import __main__ as program
from xlm_runtime.cli.arguments import did_you_mean, number, whole_number, whole_number_or_all
from xlm_runtime.cli.commands import COMMANDS

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """A function that runs a command line which ends with status 2, and returns the last line of stderr."""

    def run(*words: str) -> str:
        with pytest.raises(SystemExit) as ended:
            program.main(list(words))
        out, err = capsys.readouterr()
        assert (ended.value.code, out) == (2, "")
        assert err.startswith("usage: xlm-runtime")
        return err.splitlines()[-1]

    return run


def test_nothing_lists_the_commands(refused: Refused, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main([])
    bare = capsys.readouterr()
    assert (ended.value.code, bare.out) == (2, "")
    with pytest.raises(SystemExit) as ended:
        program.main(["--help"])
    assert (ended.value.code, capsys.readouterr().out) == (0, bare.err)
    for name, command in COMMANDS.items():
        assert (re.search(rf"^    {name}\s", bare.err, re.M) is not None) == (command.help is not None), name


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fil-mask", "b"], "unknown command 'fil-mask'. Did you mean 'fill-mask'?"),
        (["question_answering"], "unknown command 'question_answering'. Did you mean 'question-answering'?"),
        (["ner", "b"], "unknown command 'ner'. The commands are feature-extraction, fill-mask, "),
        (["--verison"], "unrecognized arguments: --verison. Did you mean '--version'?"),
        (["fill-mask", "b", "x", "--topk", "3"], "unrecognized arguments: --topk 3. Did you mean '--top-k'?"),
        (["text-generation", "b", "--beams=2"], "unrecognized arguments: --beams=2. Did you mean '--num-beams'?"),
        (["info", "b", "--zzz"], "unrecognized arguments: --zzz."),
        (["fill-mask", "b", "--top-k", "abc"], "argument --top-k: expected a whole number, got 'abc'"),
        (["fill-mask", "b", "--threads", "1.5"], "argument --threads: expected a whole number, got '1.5'"),
        (["text-classification", "b", "--top-k", "x"], "argument --top-k: expected a whole number or all, got 'x'"),
        (["text-generation", "b", "--top-p", "nan"], "argument --top-p: expected a number, got 'nan'"),
        (["fill-mask", "b", "--cache-mb", "much"], "argument --cache-mb: expected a number, got 'much'"),
        (["evaluate", "b", "f", "--limit", "ten"], "argument --limit: expected a whole number, got 'ten'"),
    ],
)
def test_typing_errors_say_what_was_meant(refused: Refused, words: list[str], message: str) -> None:
    assert f"error: {message}" in refused(*words)


def test_numbers() -> None:
    assert (whole_number("-3"), whole_number_or_all("7"), whole_number_or_all("all")) == (-3, 7, None)
    assert (number("1e-3"), number("inf")) == (0.001, float("inf"))
    for read in (whole_number, whole_number_or_all, number):
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected a .*number.*, got ''"):
            read("")
    assert did_you_mean("--top-q", ["--top-p", "--json"]) == " Did you mean '--top-p'?"
    assert did_you_mean("x", ["--top-p"]) == ""


class Interrupting:
    """A finder of modules during whose import a user presses Ctrl-C."""

    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name == self._module:
            raise KeyboardInterrupt
        return None


@pytest.mark.parametrize("module", ["xlm_runtime.cli.main", "xlm_runtime.cli.tasks"])
def test_an_interrupt_during_imports_takes_one_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(module), *sys.meta_path])
    assert program.main(["fill-mask", "bundle", "<mask>"]) == 130
    assert capsys.readouterr() == ("", "xlm-runtime: interrupted\n")


def test_help_loads_no_numpy_and_the_package_runs_as_a_module() -> None:
    code = (
        "import sys, runpy\nsys.argv[1:] = ['--version']\ntry: runpy.run_module('xlm_runtime', run_name='__main__')\n"
    )
    code += "finally: print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    version, loaded = done.stdout.splitlines()
    assert version.startswith("xlm-runtime ")
    assert loaded == "False"
