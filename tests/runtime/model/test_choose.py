"""Provider "auto": with made-up records, and with engines that are there or not."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Bundles
from xlm_runtime import BundleError, EngineError, InputError, MissingExtraError, pipeline
from xlm_runtime.bundle import Bundle, Graph, file_sha256
from xlm_runtime.bundle.timings import Record, Timing, read_records, relative_totals, replace_record
from xlm_runtime.cli import main as cli
from xlm_runtime.machine import this_machine
from xlm_runtime.model import opening
from xlm_runtime.model.choose import Chosen, choose
from xlm_runtime.providers import provider_packages

TASK = "text-classification"
VERSIONS = {"onnxruntime": "1.30", "openvino": "2026.1"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of a known name with known engines and without a GPU."""
    monkeypatch.setattr("xlm_runtime.machine.cpu_name", lambda: "Quick 9000")
    monkeypatch.setattr("xlm_runtime.machine.installed_versions", lambda packages: dict(VERSIONS))
    monkeypatch.setattr("xlm_runtime.model.choose.visible_gpu", lambda device: None)


@pytest.fixture
def folder(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(TASK), tmp_path / "bundle"))


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that makes packages installed or not."""

    def install(**packages: bool) -> None:
        for name, there in packages.items():
            monkeypatch.setitem(sys.modules, name, object() if there else None)  # type: ignore[arg-type]

    return install


def add_graph(folder: Path, file: str, precision: str, target: str | None = None, recipe: str | None = None) -> None:
    """Another entry with the first one's graph."""
    bundle = Bundle.load(folder)
    shutil.copy(folder / "model.onnx", folder / file)
    graph = replace(bundle.graphs[0], file=file, precision=precision, target=target, recipe=recipe)
    files = bundle.files | {file: file_sha256(folder / file)}
    replace(bundle, graphs=(*bundle.graphs, graph), files=files).write()


def only(folder: Path, **changes: Any) -> Graph:
    """The bundle's one graph with other properties."""
    bundle = Bundle.load(folder)
    graph = replace(bundle.graphs[0], **changes)
    replace(bundle, graphs=(graph,)).write()
    return graph


def record(folder: Path, times: dict[tuple[str, str], Any], **changes: Any) -> Record:
    """Keep a record of (file, provider) → ms, or ms by workload; `changes` are of the machine."""
    bundle = Bundle.load(folder)
    timings = [
        Timing(file, bundle.digest(bundle.graph_of_file(file)), provider, ms if isinstance(ms, dict) else {"1x16": ms})
        for (file, provider), ms in times.items()
    ]
    machine = replace(this_machine(2, None, provider_packages()), **changes)
    made = Record(machine, "2026-01-31", tuple(timings))
    replace(bundle, timings=replace_record(bundle, made)).write()
    return made


def auto(folder: Path, precision: str | None = None, threads: int | None = 2) -> Chosen:
    return choose(Bundle.load(folder), precision, threads, None)


def test_without_a_record_it_goes_by_what_is_installed(folder: Path, engines: Callable[..., None]) -> None:
    engines(onnxruntime=True, openvino=True)
    chosen = auto(folder)
    assert chosen.provider == "cpu"
    assert chosen.reason == (
        "cpu with model.onnx: the bundle has no times of this machine, number of threads and package versions, and of "
        "tensorrt, cuda, cpu, openvino it is the first that is there."
    )
    engines(onnxruntime=False)
    assert auto(folder).provider == "openvino"
    engines(openvino=False)
    with pytest.raises(MissingExtraError, match=r"extras: tensorrt, gpu, cpu, openvino.*pip install 'xlm-onnx\[cpu\]'"):
        auto(folder)


def test_an_engine_that_cannot_take_the_graph_is_passed_over(folder: Path, engines: Callable[..., None]) -> None:
    engines(onnxruntime=True, openvino=True)
    only(folder, precision="bf16")  # ONNX Runtime has no such kernels on the CPU
    assert auto(folder).provider == "openvino"
    only(folder, precision="int4", target="onnxruntime-cpu")
    assert auto(folder).provider == "cpu"
    engines(onnxruntime=False)
    with pytest.raises(InputError, match=r"None of the providers .* takes a graph .* in precision 'int4'"):
        auto(folder)
    with pytest.raises(InputError, match="no graph in precision 'fp8'; it has int4"):
        auto(folder, "fp8")


def test_a_provider_gets_the_graph_that_was_written_for_it(folder: Path) -> None:
    add_graph(folder, "model.fp32.onnxruntime-cpu.onnx", "fp32", "onnxruntime-cpu")
    assert auto(folder).graph.file == "model.fp32.onnxruntime-cpu.onnx"


def test_a_bundle_that_was_made_for_providers_is_opened_by_the_first_that_is_there(
    folder: Path, engines: Callable[..., None]
) -> None:
    assert pipeline(TASK, folder).model.provider == "cpu"
    Bundle.update(folder, lambda now: replace(now, providers=("warp-drive", "openvino", "cpu")))
    made = Bundle.load(folder)
    engines(openvino=False)
    opened = pipeline(TASK, folder)
    assert opened.model.provider == "cpu"
    assert opened.model.reason.endswith("and of warp-drive, openvino, cpu it is the first that is there.")
    engines(openvino=True)
    assert choose(made, None, 2, None, made.providers).provider == "openvino"
    assert pipeline(TASK, folder, "cpu").model.reason == "provider='cpu' was asked for."
    record(folder, {("model.onnx", "cpu"): 1.0, ("model.onnx", "openvino"): 2.0})
    made = Bundle.load(folder)
    assert choose(made, None, 2, None, made.providers).provider == "cpu", "the faster one, where times are known"
    Bundle.update(folder, lambda now: replace(now, providers=("cuda",), timings=()))
    with pytest.raises(InputError, match=r"None of the providers cuda is installed, has its device and takes .*: gpu"):
        pipeline(TASK, folder)


def test_with_a_record_the_fastest(folder: Path) -> None:
    record(folder, {("model.onnx", "cpu"): 2.0, ("model.onnx", "openvino"): 1.0})
    chosen = auto(folder)
    assert (chosen.provider, chosen.graph.file) == ("openvino", "model.onnx")
    assert chosen.reason == (
        "openvino with model.onnx: it took the least time of 2 combinations in fp32 when timed on 2026-01-31."
    )


def test_relative_times_and_not_their_sum_decide(folder: Path) -> None:
    # 101 ms against 151 ms in all, but three times slower where calls are short
    slow_short, slow_long = {"1x16": 3.0, "1x128": 98.0}, {"1x16": 1.0, "1x128": 150.0}
    record(folder, {("model.onnx", "cpu"): slow_short, ("model.onnx", "openvino"): slow_long})
    assert auto(folder).provider == "openvino"


def test_the_layout_is_part_of_the_choice_and_the_precision_is_not(folder: Path) -> None:
    add_graph(folder, "model.second.onnx", "fp32")
    add_graph(folder, "model.int8.onnx", "int8")
    times = {("model.onnx", "cpu"): 3.0, ("model.second.onnx", "cpu"): 2.0, ("model.int8.onnx", "openvino"): 1.0}
    record(folder, times)
    assert auto(folder).graph.file == "model.second.onnx"
    assert auto(folder, "fp32").provider == "cpu"
    chosen = auto(folder, "int8")
    assert (chosen.provider, chosen.graph.file) == ("openvino", "model.int8.onnx")
    assert "nothing else could be opened in int8" in chosen.reason


def test_recipes_of_one_precision_do_not_compete(folder: Path) -> None:
    add_graph(folder, "dynamic.onnx", "int8", recipe="int8-dynamic")
    add_graph(folder, "static.onnx", "int8", recipe="int8-static")
    record(folder, {("dynamic.onnx", "cpu"): 9.0, ("static.onnx", "cpu"): 1.0})
    bundle = Bundle.load(folder)
    for asked, file in (("int8", "dynamic.onnx"), ("int8-dynamic", "dynamic.onnx"), ("int8-static", "static.onnx")):
        assert choose(bundle, asked, 2, None).graph.file == file
    with pytest.raises(InputError, match=r"no graph in precision 'int4'; it has fp32, int8-dynamic, int8-static"):
        choose(bundle, "int4", 2, None)


@pytest.mark.parametrize(
    "other",
    [
        {"cpu": "Slow 1"},
        {"gpu": "NVIDIA H200"},
        {"threads": 4},
        {"versions": VERSIONS | {"openvino": "2026.0"}},
        {"versions": {"onnxruntime": "1.30"}},
    ],
    ids=["cpu", "gpu", "threads", "version", "installed since"],
)
def test_a_record_of_another_machine_counts_for_nothing(folder: Path, other: dict[str, Any]) -> None:
    record(folder, {("model.onnx", "cpu"): 2.0, ("model.onnx", "openvino"): 1.0}, **other)
    assert auto(folder).provider == "cpu"
    record(folder, {("model.onnx", "cpu"): 2.0, ("model.onnx", "openvino"): 1.0})
    assert auto(folder).provider == "openvino"


def test_times_of_a_replaced_graph_count_for_nothing(folder: Path) -> None:
    record(folder, {("model.onnx", "openvino"): 1.0})
    assert auto(folder).provider == "openvino"
    bundle = Bundle.load(folder)
    replace(bundle, files=bundle.files | {"model.onnx": "0" * 64}).write()
    assert auto(folder).provider == "cpu"


def test_a_record_replaces_the_one_of_the_same_machine_and_threads(folder: Path) -> None:
    for threads, milliseconds in ((2, 1.0), (4, 2.0), (2, 3.0)):
        record(folder, {("model.onnx", "cpu"): milliseconds}, threads=threads)
    kept = read_records(Bundle.load(folder))
    assert [(each.machine.threads, each.timings[0].milliseconds["1x16"]) for each in kept] == [(4, 2.0), (2, 3.0)]


@pytest.mark.parametrize(
    "section",
    [[{}], ["text"], [{"cpu": "a"}], "timings"],
)
def test_a_damaged_section_stops_auto_alone(folder: Path, section: Any) -> None:
    contents = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps(contents | {"calibration": section}))
    with pytest.raises(BundleError, match=r"'calibration' of the bundle .* is damaged: .*run `xlm-runtime autotune`"):
        pipeline(TASK, folder, "auto")
    assert pipeline(TASK, folder, "cpu")("Good!")["label"]
    assert cli.main(["info", str(folder)]) == 0
    record(folder, {("model.onnx", "openvino"): 1.0})
    assert auto(folder).provider == "openvino", "a new record takes the damaged ones' place"


@pytest.mark.parametrize("milliseconds", [0, -1.0, "fast", None, float("nan")])
def test_times_that_are_none(folder: Path, milliseconds: Any) -> None:
    made = record(folder, {("model.onnx", "cpu"): 1.0}).to_dict()
    made["timings"][0]["milliseconds"] = {"1x16": milliseconds}
    with pytest.raises(BundleError, match=r"'calibration' .* is damaged"):
        read_records(replace(Bundle.load(folder), timings=(made,)))


def test_a_pipeline_says_what_was_chosen_and_why(folder: Path) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    named = pipeline(TASK, folder, threads=2)
    assert (named.model.provider, named.model.reason) == ("cpu", "provider='cpu' was asked for.")
    record(folder, {("model.onnx", "cpu"): 2.0, ("model.onnx", "openvino"): 1.0})
    chosen = pipeline(TASK, folder, "auto", 2)
    assert type(chosen.model.session).__name__ == "FilledSession"
    assert chosen.model.provider == "openvino"
    assert "timed on 2026-01-31" in chosen.model.reason
    assert chosen("Good!")["label"] == named("Good!")["label"]


def test_an_engine_cache_is_for_the_provider_that_is_chosen(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="the openvino extra is not installed")
    assert pipeline(TASK, folder, "auto", 2, engine_cache=tmp_path / "first").model.provider == "cpu"
    record(folder, {("model.onnx", "openvino"): 1.0})
    pipeline(TASK, folder, "auto", 2, engine_cache=tmp_path / "second")
    kinds = [path.suffix for name in ("first", "second") for path in (tmp_path / name).iterdir()]
    assert kinds == [".onnxruntime", ".openvino"]


def test_a_chosen_engine_that_fails_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(folder, {("model.onnx", "cpu"): 2.0, ("model.onnx", "openvino"): 1.0})

    def refuse(path: Path, provider: str, *rest: object, **options: object) -> None:
        raise EngineError(f"{provider} is broken")

    monkeypatch.setattr(opening, "open_session", refuse)
    with pytest.raises(EngineError, match="openvino is broken"):
        pipeline(TASK, folder, "auto", 2)


def test_the_command_line_says_it_on_stderr(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [TASK, str(folder), "Good!", "--threads", "2", "--provider"]
    assert cli.main([*arguments, "cpu"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    record(folder, {("model.onnx", "cpu"): 1.0, ("model.onnx", "openvino"): 2.0})
    assert cli.main([*arguments, "auto"]) == 0
    assert capsys.readouterr() == (
        out,
        "xlm-runtime: cpu with model.onnx: it took the least time of 2 combinations in fp32 when timed on "
        "2026-01-31.\n",
    )


def test_info_names_the_machines(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(folder, {("model.onnx", "cpu"): 1.0})
    assert cli.main(["info", str(folder)]) == 0
    assert "2026-01-31 on Quick 9000, 2 threads" in capsys.readouterr().out


@given(st.lists(st.lists(st.floats(1e-3, 1e4), min_size=3, max_size=3), min_size=1, max_size=6))
def test_relative_totals(times: list[list[float]]) -> None:
    timings = [Timing("", "", str(i), dict(zip("abc", each, strict=True))) for i, each in enumerate(times)]
    totals = relative_totals(timings)
    assert sorted(int(timing.provider) for _, timing in totals) == list(range(len(times)))
    for total, timing in totals:
        shares = [timing.milliseconds[name] / min(each.milliseconds[name] for each in timings) for name in "abc"]
        assert total == pytest.approx(sum(shares) / 3)
        assert total >= 1
    assert [total for total, _ in totals] == sorted(total for total, _ in totals)


def test_relative_totals_of_what_all_have() -> None:
    one, two = Timing("", "", "one", {"a": 1.0, "b": 1.0}), Timing("", "", "two", {"b": 3.0, "c": 1.0})
    assert relative_totals([one, two]) == [(1.0, one), (3.0, two)]
    assert relative_totals([one, Timing("", "", "three", {"c": 1.0})]) == []
    assert relative_totals([]) == []
