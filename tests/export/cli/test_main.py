"""`xlm-export` before torch is loaded: help, versions, typing errors, interrupts; and what it says to do next."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import xlm_export
from tests.conftest import Bundles
from tests.runtime.cli.test_arguments import Interrupting
from xlm_export import __main__ as program
from xlm_export.cli.main import COMMANDS, build_parser
from xlm_export.cli.next_step import answering_command
from xlm_runtime.bundle import Bundle

# Every line in one process in which the packages of the extra cannot be imported.
WITHOUT_EXTRA = """
import contextlib, io, json, sys
sys.modules.update(dict.fromkeys(("torch", "onnx", "onnxscript", "onnx_ir", "safetensors", "tqdm", "sacremoses")))
from xlm_export.__main__ import main
answers = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(line)
        except SystemExit as ended:
            code = ended.code
    answers.append((code, out.getvalue(), err.getvalue()))
print(json.dumps(answers))
"""


def test_without_the_extra() -> None:
    lines = [["--help"], ["--version"], [], ["exprot"], *([name, "--help"] for name in COMMANDS)]
    command = [sys.executable, "-c", WITHOUT_EXTRA, json.dumps(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = json.loads(done.stdout)
    listing, version, bare, typo = answers[:4]
    assert (listing[0], listing[2]) == (0, "")
    assert all(f"\n    {name} " in listing[1] for name in COMMANDS)
    assert (version[0], version[2]) == (0, "")
    assert version[1].startswith("xlm-export ")
    assert bare == [2, "", listing[1]]
    assert typo[0] == 2
    assert typo[2].endswith("error: unknown command 'exprot'. Did you mean 'export'?\n")
    for name, answer in zip(COMMANDS, answers[4:], strict=True):
        assert answer[:2] == [1, ""], name
        assert answer[2].count("\n") == 1
        assert "which is not installed. Please reinstall with the `export` extra" in answer[2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["export", "a", "b", "--layuot", "packed"],
            "unrecognized arguments: --layuot packed. Did you mean '--layout'?",
        ),
        (["export", "a", "b", "--opset", "new"], "argument --opset: expected a whole number, got 'new'"),
        (["quantize", "b", "--recipe", "r", "--percentile", "x"], "argument --percentile: expected a number, got 'x'"),
    ],
)
def test_typing_errors_say_what_was_meant(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(words)
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith(f"usage: xlm-export {words[0]}")
    assert message in err


@pytest.mark.parametrize("module", ["xlm_export.cli.main", "xlm_export.cli.export"])
def test_an_interrupt_during_imports_takes_one_line(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting(module), *sys.meta_path])
    assert program.main(["export", "checkpoint", "bundle"]) == 130
    assert capsys.readouterr() == ("", "xlm-export: interrupted\n")


def test_every_command_has_its_arguments() -> None:
    assert build_parser().parse_args(["verify", "b", "--checkpoint", "c"]).command == "verify"


def test_the_interface_is_functions() -> None:
    for name in xlm_export.__all__:
        assert callable(getattr(xlm_export, name)), name
    with pytest.raises(AttributeError, match="has no attribute 'exprot'"):
        _ = xlm_export.exprot


def test_the_command_that_answers(bundles: Bundles) -> None:
    bundle = Bundle.load(bundles("fill-mask"))
    begin = f"answer with it: xlm-runtime fill-mask {bundle.folder}"
    assert answering_command(bundle, bundle.graph()) == f"{begin} 'A <mask> text.'"
    assert answering_command(bundle, bundle.graph(), "openvino") == f"{begin} --provider openvino 'A <mask> text.'"
