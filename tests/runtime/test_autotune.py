"""`xlm-runtime autotune` over tiny bundles, with the engines that are there."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_runtime import BundleError, EngineError, InputError, autotune, pipeline
from xlm_runtime.autotune import ENCODING, GENERATING, keep, measure
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.timings import Record, read_records, relative_totals
from xlm_runtime.cli import main as cli
from xlm_runtime.model.model import BundleModel

pytest.importorskip("openvino", reason="the openvino extra is not installed")

TASK = "text-classification"
ALL = [workload.name for workload in ENCODING]


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fewest rounds, and no GPU."""
    monkeypatch.setattr(autotune, "SECONDS", 0.0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the engines' threads need not come to rest
    monkeypatch.setattr(autotune, "visible_gpu", lambda: None)


@pytest.fixture
def copy(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(TASK), tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "workloads"),
    [
        ("text-classification-packed", ALL),
        ("multiple-choice", ALL),
        ("question-answering", ALL),
        ("fill-mask", ALL),
        ("fill-mask-packed", ALL),
        ("text-generation", [workload.name for workload in GENERATING]),
        ("text-generation-bidirectional", ALL),
    ],
)
def test_every_kind_of_graph(bundles: Bundles, name: str, workloads: list[str]) -> None:
    """Unlike the command, it leaves the bundle as it is."""
    folder = bundles(name)
    before = (folder / "bundle.json").read_bytes()
    record = measure(folder, 1)
    assert [(timing.graph, timing.provider) for timing in record.timings] == [
        ("model.onnx", "cpu"),
        ("model.onnx", "openvino"),
    ]
    for timing in record.timings:
        assert list(timing.milliseconds) == workloads
        assert all(0 < value < 10_000 for value in timing.milliseconds.values())
    assert {item.provider for item in record.left_out} == {"cuda", "tensorrt", "tensorrt-ep"}
    assert (folder / "bundle.json").read_bytes() == before


def test_the_command_prints_and_keeps_what_auto_reads(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((copy / "bundle.json").read_text())
    assert cli.main(["autotune", str(copy), "--threads", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    after = json.loads((copy / "bundle.json").read_text())
    (entry,) = after.pop("calibration")
    assert after == before
    assert (entry["threads"], entry["gpu"]) == (1, None)
    assert entry["versions"]["openvino"]
    assert entry["cpu"] in out
    record = Record.from_dict(entry)
    (_, best), (_, other) = relative_totals(record.timings)
    assert out.index(f"model.onnx  {best.provider} ") < out.index(f"model.onnx  {other.provider} ")
    assert "left out: cuda: No CUDA device is visible." in out
    assert pipeline(TASK, copy, "auto", 1).model.provider == best.provider
    assert "the bundle has no times" in pipeline(TASK, copy, "auto", 2).model.reason
    # once more with another number of threads, and once with the same
    for threads in ("2", "1"):
        assert cli.main(["autotune", str(copy), "--threads", threads, "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert printed == json.loads((copy / "bundle.json").read_text())["calibration"][-1]
    assert [each.machine.threads for each in read_records(Bundle.load(copy))] == [2, 1]


def test_every_graph_is_measured_within_its_precision(copy: Path) -> None:
    bundle = Bundle.load(copy)
    first = bundle.graphs[0]
    others = {"model.int8.onnx": "int8", "model.int4.onnx": "int4", "model.fed.onnx": "fp32"}
    graphs = {file: replace(first, file=file, precision=precision) for file, precision in others.items()}
    graphs["model.int4.onnx"] = replace(graphs["model.int4.onnx"], target="onnxruntime-cpu")
    further = replace(first.inputs[0], name="position_ids")
    graphs["model.fed.onnx"] = replace(graphs["model.fed.onnx"], inputs=(*first.inputs, further))
    for file in others:
        shutil.copy(copy / "model.onnx", copy / file)
    files = bundle.files | dict.fromkeys(others, bundle.files["model.onnx"])
    replace(bundle, graphs=(first, *graphs.values()), files=files).write()
    record = measure(copy, 1)
    assert [(timing.graph, timing.provider) for timing in record.timings] == [
        ("model.onnx", "cpu"),
        ("model.onnx", "openvino"),
        ("model.int8.onnx", "cpu"),
        ("model.int8.onnx", "openvino"),
        ("model.int4.onnx", "cpu"),
    ]
    unfed = [item for item in record.left_out if item.graph == "model.fed.onnx"]
    assert [item.provider for item in unfed] == ["cpu", "openvino"]
    assert all("asks for position_ids" in item.reason for item in unfed)


def test_an_engine_that_fails_is_left_out(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    run = BundleModel.run

    def fail(self: BundleModel, *arguments: Any) -> Any:
        if self.provider == "openvino":
            raise EngineError("no room")
        return run(self, *arguments)

    monkeypatch.setattr(BundleModel, "run", fail)
    record = measure(bundles(TASK), 1)
    assert [timing.provider for timing in record.timings] == ["cpu"]
    assert ("model.onnx", "openvino", "no room") in [
        (item.graph, item.provider, item.reason) for item in record.left_out
    ]
    monkeypatch.setattr("xlm_runtime.autotune.is_installed", lambda provider: provider.name == "openvino")
    with pytest.raises(InputError, match=r"No graph .* could be measured .* cpu: Not installed: .*openvino: no room"):
        measure(bundles(TASK), 1)


def test_candidates_take_turns_with_the_same_inputs(bundles: Bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[list[int]]]] = []
    run = BundleModel.run

    def note(self: BundleModel, batch: Any, extra: Any = None) -> Any:
        calls.append((self.provider, [row.input_ids for row in batch]))
        return run(self, batch, extra)

    monkeypatch.setattr(BundleModel, "run", note)
    measure(bundles(TASK), 1)
    pairs = [(calls[i], calls[i + 1]) for i in range(0, len(calls), 2)]
    assert all(first[1] == second[1] for first, second in pairs)
    order = [first[0] for first, _ in pairs]
    # a first call of each workload, and three rounds, of which each begins with the other one
    assert order == ["cpu"] * 3 + ["cpu"] * 3 + ["openvino"] * 3 + ["cpu"] * 3
    lengths = [tuple(map(len, first[1])) for first, _ in pairs[3:]]
    assert len(set(lengths[2::3])) == 3, "lengths differ from round to round"
    assert max(max(each) for each in lengths) <= 64, "the model's positions"


def test_progress_rises_to_the_end(bundles: Bundles) -> None:
    seen: list[int] = []
    measure(bundles(TASK), 1, 0.2, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "Folder 'absent' not found"),
        (["{bundle}", "--threads", "0"], "threads is 0; expected a positive number"),
        (["{damaged}"], "'model.onnx' in path"),
    ],
)
def test_errors_take_one_line(
    bundles: Bundles, copy: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    content = bytearray((copy / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.onnx").write_bytes(bytes(content))
    before = (copy / "bundle.json").read_bytes()
    filled = [word.format(bundle=bundles(TASK), damaged=copy) for word in arguments]
    assert cli.main(["autotune", *filled]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("xlm-runtime: error: ")
    assert message in err
    assert err.count("\n") == 1
    assert (copy / "bundle.json").read_bytes() == before


def test_the_former_name_of_the_command_works_with_a_note(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", str(copy), "--threads", "1"]) == 0
    assert capsys.readouterr().err.startswith("xlm-runtime: calibrate is called autotune now.")
    assert len(Bundle.load(copy).timings) == 1


@pytest.mark.parametrize("arguments", [["autotune"], ["autotune", "b", "c"], ["autotune", "b", "--provider", "cpu"]])
def test_wrong_use(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "usage: xlm-runtime" in capsys.readouterr().err


def test_figures_that_cannot_be_kept_are_printed_all_the_same(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copy / "bundle.json").read_bytes()

    def refuse(path: Path, target: Path) -> Path:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "replace", refuse)
    assert cli.main(["autotune", str(copy), "--threads", "1"]) == 1
    out, err = capsys.readouterr()
    assert "model.onnx  openvino" in out
    assert err.count("\n") == 1
    assert f"The figures could not be kept: '{copy}' cannot be written (Read-only file system)" in err
    assert (copy / "bundle.json").read_bytes() == before


def test_what_changed_in_the_meantime_stays(copy: Path) -> None:
    record = measure(copy, 1)
    bundle = Bundle.load(copy)
    replace(bundle, verification=bundle.verification | {"optimized": {"model.onnx": {}}}).write()
    keep(copy, record)
    after = Bundle.load(copy)
    assert "optimized" in after.verification
    assert len(after.timings) == 1
    shutil.rmtree(copy)
    with pytest.raises(BundleError, match="not found"):
        keep(copy, record)
