"""How far a file is, on a terminal alone."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from xlm_runtime.cli.progress import file_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("has_tqdm", [True, False])
def test_rows_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, has_tqdm: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    if has_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    with file_progress(2048) as progress:
        progress(1000, 1024)
        progress(1500, 2048)
    said = terminal.getvalue()
    assert "1,500 rows, " in said
    assert " a second" in said
    assert "100%" in said


def test_nothing_where_there_is_no_terminal(capsys: Any) -> None:
    with file_progress(2048) as progress:
        progress(1500, 2048)
    assert capsys.readouterr() == ("", "")
