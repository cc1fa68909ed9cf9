"""From records to tables and plots."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plots import draw_plots
from benchmarks.report import number, rate_cells, read_report, summarize, table_text, terminal, write_tables
from benchmarks.suite import render
from benchmarks.targets import target_cells
from benchmarks.workloads import AS_IT_COMES, ONE_BY_ONE, OWN

HEAD = {
    "kind": "run", "suite": "cpu", "started": "2026-01-02T03:04:05", "command": "python -m benchmarks cpu",
    "settings": {"threads": 2, "cpus": [0, 1], "rounds": 3}, "model": "tiny", "load": [0, 0, 0], "other_cpus": 0.0,
    "machine": {"cpu": "A CPU", "cpus": 2, "cpu_features": ["avx2"], "memory_gb": 8.0, "system": "Linux", "python": "3",
                "versions": {"numpy": "2"}},
}  # fmt: skip


def contender(name: str, side: str) -> dict[str, Any]:
    return {"kind": "contender", "task": "t", "name": name, "side": side, "about": "", "reference": None}


def sample(name: str, way: str, phase: str, seconds: list[float]) -> dict[str, Any]:
    return {"kind": "sample", "contender": name, "workload": "mixed", "way": way, "round": 0, "call": 0, "phase": phase,
            "rows": 8, "tokens": 512, "seconds": seconds}  # fmt: skip


def records(finished: bool = True) -> list[dict[str, Any]]:
    found = [
        {"kind": "missing", "contender": "optimum", "reason": "not there"},
        HEAD,
        contender("transformers fp32", "peer"), contender("fast peer", "peer"), contender("ours", "ours"),
        contender("bound int8", "bound"),
        {"kind": "workload", "name": "mixed", "about": "8 sequences", "task": "t", "do": "run", "new_tokens": 0},
        {"kind": "start", "contender": "ours", "import": 0.1, "load": 0.5, "about": None, "first_answer": 0.02,
         "rss_mb": 100.0, "peak_mb": 110.0},
        {"kind": "check", "contender": "ours", "rows": 4, "max_difference": 1e-6, "max_logit": 2.0, "agreement": 1.0,
         "divergence": 1e-9},
        sample("transformers fp32", AS_IT_COMES, "warm-up", [90.0]),
        sample("transformers fp32", AS_IT_COMES, "choice", [6.0]),
        sample("transformers fp32", ONE_BY_ONE, "choice", [3.0]),
    ]  # fmt: skip
    for seconds in (3.0, 3.2, 2.8):
        found.append(sample("transformers fp32", ONE_BY_ONE, "round", [seconds]))
        found.append(sample("fast peer", AS_IT_COMES, "round", [seconds / 3]))
        found.append(sample("ours", OWN, "round", [seconds / 12, seconds / 12]))
        found.append(sample("bound int8", OWN, "round", [seconds / 7.5]))
        found.append({"kind": "round", "workload": "mixed", "round": 0, "load": 1.0, "other_cpus": 0.02})
    found.append({"kind": "memory", "contender": "ours", "rss_mb": 120.0, "peak_mb": 130.0})
    return [*found, {"kind": "end", "load": [0, 0, 0]}] if finished else found


def test_summary() -> None:
    found = summarize(records())
    (workload,) = found["workloads"]
    assert workload["best"] == {"peer": "fast peer", "ours": "ours", "bound": "bound int8"}
    ratios = workload["ratios"]
    assert ratios["best_peer"] == pytest.approx(2.0)  # 3/3 over 3/6
    assert ratios["bound"] == pytest.approx(7.5 / 6)
    assert ratios["eager_padded"] == pytest.approx(6.0 / 0.5)  # padded as it comes, though it was not its best way
    ours = next(row for row in workload["rows"] if row["contender"] == "ours")
    assert ours["group_seconds"]["n"] == 6
    assert ours["seconds"]["median"] == pytest.approx(0.5)
    eager = next(row for row in workload["rows"] if row["contender"] == "transformers fp32")
    assert eager["way"] == ONE_BY_ONE
    assert eager["ways"][AS_IT_COMES] == 6.0
    entry = next(item for item in found["contenders"] if item["name"] == "ours")
    assert (entry["peak_mb"], entry["check"]["agreement"]) == (130.0, 1.0)
    assert found["finished"]


def test_tables(tmp_path: Path) -> None:
    shown = write_tables(summarize(records()), tmp_path / "r")
    assert shown == terminal(summarize(records()))
    assert all(len(line) <= 120 for line in shown.splitlines())
    assert "500* O" in shown
    assert "3000 1" in shown
    assert "warning" not in shown
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    for expected in ("A CPU", "| ours | t | 1.0e-06 |", "optimum: not there", "numpy 2", "2.00", "![](r.png)"):
        assert expected in text
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["workloads"]


def test_a_run_cut_short_is_drawn_and_says_so(tmp_path: Path) -> None:
    lines = [json.dumps(item) for item in records(finished=False)]
    (tmp_path / "r.jsonl").write_text("\n".join([*lines, '{"kind": "sam']), encoding="utf-8")
    found = render(tmp_path / "r.jsonl")
    assert not found["finished"]
    assert "warning: the run was cut short" in (tmp_path / "r.md").read_text(encoding="utf-8")
    for name in ("r.png", "r.svg", "r-start.png", "r-start.svg"):
        assert (tmp_path / name).stat().st_size > 1000


def test_tables_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(item) for item in records()), encoding="utf-8")
    render(tmp_path / "r.jsonl")
    assert "no plots without matplotlib" in capsys.readouterr().out
    assert (tmp_path / "r.md").is_file()


def test_a_busy_machine_is_told() -> None:
    busy = [{**item, "other_cpus": 0.7} if item["kind"] == "round" else item for item in records()]
    assert "not a quiet machine; other programs used up to 0.7 CPUs" in terminal(summarize(busy))


def test_damaged_and_empty_reports(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text('{"kind": "run"}\n{"kind\n{"kind": "end"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match="line 2 is damaged"):
        read_report(path)
    with pytest.raises(ValueError, match="no measurement"):
        summarize([HEAD])
    with pytest.raises(SystemExit, match="cannot be drawn"):
        render(tmp_path / "none.jsonl")


def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_plots(summarize(records()), tmp_path / name)
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == (tmp_path / "b.svg").read_text(encoding="utf-8")


def test_computed_bound_of_a_gpu() -> None:
    rates = [
        {"kind": "sizes", "task": "t", "layers": 2, "dim": 10, "vocab": 50, "bytes": 2},
        {"kind": "rate", "operations_per_second": 1e6},
        {"kind": "bandwidth", "seconds": 1.0, "bytes": 1e6},
    ]
    found = summarize([*records(), *rates])
    bound = next(row for row in found["workloads"][0]["rows"] if row["contender"].startswith("bound, "))
    operations = 2 * 12 * 10**2 * 2 * 512 / 1e6  # more than 4,800 bytes / 1e6 a second
    assert bound["contender"] == "bound, operations"
    assert bound["seconds"]["median"] == pytest.approx(operations)


def gpu_records() -> list[dict[str, Any]]:
    """One text and one decoding workload, ours beside the packed peer; 4 steps of 8 rows are timed together."""
    found = [{**HEAD, "suite": "gpu"}, contender("ours graphs", "ours"), contender("ours plain", "ours")]
    found.append(contender("torch packed compiled, graph fp16", "peer"))
    for name, do, new in (("text mixed", "texts", 0), ("decode 8", "decode", 4)):
        found.append({"kind": "workload", "name": name, "about": "", "task": "t", "do": do, "new_tokens": new})
    found.append({"kind": "prepared", "what": "packed", "seconds": 12.4})
    for name, workload, seconds in (
        ("ours graphs", "text mixed", 0.004), ("ours plain", "text mixed", 0.005),
        ("torch packed compiled, graph fp16", "text mixed", 0.003), ("ours graphs", "decode 8", 0.0026),
    ):  # fmt: skip
        found.append({**sample(name, OWN, "round", [seconds]), "workload": workload})
    return found


def test_targets_stand_beside_what_was_measured() -> None:
    cells = {row[0]: row[1:] for row in target_cells(summarize(gpu_records())["workloads"])}
    assert cells["text mixed"] == ["4.50", "4.000", "met", "ours graphs", "", "0.75 missed"]
    assert cells["decode 8"] == ["0.60", "0.650", "missed", "ours graphs", "", ""]
    assert cells["1x16"] == ["0.60", "not measured", "", "", "", ""]
    assert list(cells)[1:] == [
        "1x16", "1x128", "text 1x128", "8x128", "32x128", "mixed", "text mixed", "decode 1", "decode 8"
    ]  # fmt: skip


def test_rates_of_texts_and_steps(tmp_path: Path) -> None:
    found = summarize(gpu_records())
    cells = {row[0]: row[1:] for row in rate_cells(found)}
    assert cells[""] == ["text mixed, texts/s", "decode 8, ms a step"]
    assert cells["ours graphs"] == ["2,000", "0.65"]
    assert cells["ours plain"] == ["1,600", ""]
    decode = next(item for item in found["workloads"] if item["name"] == "decode 8")
    assert decode["rows"][0]["new_tokens"] == 8, "of a step"
    write_tables(found, tmp_path / "r")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    for expected in ("### Targets", "### Rates", "Preparation: packed 12 s."):
        assert expected in text


def test_bound_of_a_step_of_decoding() -> None:
    rates = [
        {"kind": "sizes", "task": "t", "layers": 2, "dim": 10, "vocab": 50, "bytes": 2},
        {"kind": "rate", "operations_per_second": 1e12},
        {"kind": "bandwidth", "seconds": 1.0, "bytes": 1e6},
    ]
    found = summarize([*gpu_records(), *rates])
    decode = next(item for item in found["workloads"] if item["name"] == "decode 8")
    bound = next(row for row in decode["rows"] if row["side"] == "bound")
    assert bound["contender"] == "bound, bytes"
    assert bound["seconds"]["median"] == pytest.approx((12 * 10**2 * 2 + 50 * 10) * 2 / 1e6)


def test_numbers_have_three_figures() -> None:
    assert [number(value) for value in (0.1234, 1.234, 12.34, 123.4, 1234.5)] == ["0.12", "1.23", "12.3", "123", "1234"]


def test_an_empty_table_is_nothing() -> None:
    assert table_text([["a"]]) == ""
