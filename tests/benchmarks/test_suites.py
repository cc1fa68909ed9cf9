"""The command line, what a run needs on disk, and whole runs on tiny models."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import benchmarks.machine
from benchmarks import __main__ as dispatch
from benchmarks import gpu
from benchmarks import prepare as preparation
from benchmarks.checkpoints import XNLI_LABELS
from benchmarks.cpu import our_specs
from benchmarks.gpu import gpu_workloads, require_device, wanted_bundles
from benchmarks.machine import OtherWork, describe
from benchmarks.prepare import (
    FLAVORS,
    GPU_EXPORTS,
    GPU_VARIANTS,
    LAYOUTS,
    Prepared,
    only_graph,
    prepare,
    prepare_gpu,
)
from benchmarks.process import ROOT, ContenderError, Worker
from benchmarks.protocol import Spec
from benchmarks.suite import (
    add_options,
    check_names,
    choose_contenders,
    choose_workloads,
    may_be_chosen,
    read_options,
)
from benchmarks.texts import TextSampler
from benchmarks.trained import CHECKPOINT, copy_checkpoint
from benchmarks.workloads import CPU_WORKLOADS
from tests.make_checkpoint import make_checkpoint
from xlm_export import load_checkpoint
from xlm_runtime.bundle import Bundle
from xlm_runtime.pipelines import pipeline
from xlm_runtime.tokenization import XLMTokenizer

Bundles = Callable[[str], Path]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "benchmarks", *arguments], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("suite", dispatch.SUITES)
def test_every_suite_is_a_module_with_a_main(suite: str) -> None:
    text = (ROOT / "benchmarks" / f"{suite}.py").read_text(encoding="utf-8")
    assert "def main() -> None:" in text
    assert 'if __name__ == "__main__":\n    main()' in text


def test_unknown_suite() -> None:
    done = run("cpus")
    assert done.returncode == 2
    assert "Unknown suite 'cpus'" in done.stderr
    assert "question_answering" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "mixed,long"), "Unknown workload 'long'; expected some of 1x16"),
        (("--variants", "int3"), "Unknown variant 'int3'; expected some of fp32 optimized"),
        (("--rounds", "0"), "--rounds is 0; expected a positive number."),
        (("--threads", "4096"), "--threads is 4096, but this process may use"),
        (("--render", "none.jsonl"), "The report 'none.jsonl' cannot be drawn"),
    ],
)
def test_mistakes_get_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = run("cpu", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_choices() -> None:
    assert [w.name for w in choose_workloads(CPU_WORKLOADS, "mixed, 1x16")] == ["1x16", "mixed"]
    sides = (("a b", "peer"), ("ab", "peer"), ("c", "ours"), ("cd", "ours"), ("e", "bound"))
    specs = [Spec(name, side, "k", {}) for name, side in sides]

    def chosen(peers: str | None, ours: str | None) -> str:
        return " ".join(spec.name.replace(" ", "_") for spec in choose_contenders(specs, peers, ours))

    assert chosen(None, None) == "a_b ab c cd e"
    assert chosen("a", "c") == "a_b ab c cd e"
    assert chosen("a b", "cd") == "a_b cd e"
    assert chosen("", "") == "e"
    with pytest.raises(SystemExit, match="No name of --peers begins with 'x'; there are a b, ab"):
        check_names(specs, "x", None)
    with pytest.raises(SystemExit, match="No name of --ours begins with 'a'; there are c, cd"):
        check_names(specs, None, "a")


def test_what_no_choice_can_name_is_not_made() -> None:
    for option in (None, "ours", "ours p", "ours packed", "ours packed fp32 ORT", "ours padded, ours packed"):
        assert may_be_chosen(option, "ours packed"), option
    for option in ("", "ours padded", "ours padded fp32,ours bundle"):
        assert not may_be_chosen(option, "ours packed"), option


@pytest.mark.parametrize("layouts", [(), ("packed",), LAYOUTS])
@pytest.mark.parametrize("nncf", [True, False])
def test_graphs_to_make(
    layouts: tuple[str, ...], nncf: bool, bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands that write bundles and peers' graphs, with a program in their place that copies a bundle."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        if "quantize" not in command:
            shutil.copytree(bundles("text-classification"), command[-1])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(preparation.subprocess, "run", run)
    made = prepare(
        tmp_path / "made", "text-classification", tmp_path / "checkpoint", layouts=layouts, variants=["bf16"],
        peers=True, nncf=nncf, optimum=tmp_path / "none", progress=lambda step: None,
    )  # fmt: skip
    wanted = [layout for layout in LAYOUTS if layout == "padded" or layout in layouts]
    assert list(made.bundles) == [f"{layout} {what}" for layout in wanted for what in ("fp32", "bf16")]
    exports = [command for command in commands if "export" in command]
    assert [command[command.index("--layout") + 1] if "--layout" in command else "padded" for command in exports] == (
        wanted
    )
    assert any("benchmarks.openvino_int8" in command for command in commands) == nncf == bool(made.openvino_int8)
    assert list(made.missing) == ["optimum"]


def test_quick_sets_what_no_option_does(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, "cpu")
    monkeypatch.setattr(sys, "argv", ["cpu", "--quick", "--dim", "32"])
    options = read_options(parser, {"layers": 2, "dim": 64})
    assert options is not None
    assert (options.layers, options.dim, options.vocab) == (2, 32, None)
    monkeypatch.setattr(sys, "argv", ["cpu", "--dim", "32"])
    options = read_options(parser, {"layers": 2, "dim": 64})
    assert options is not None
    assert options.layers is None


def test_a_report_is_never_written_over(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("", encoding="utf-8")
    done = run("cpu", "--output", str(tmp_path / "r"))
    assert done.returncode == 1
    assert "is already there" in done.stderr


def test_no_gpu_is_one_clear_error() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="No GPU: torch finds no CUDA device"):
        require_device("cuda")
    require_device("cpu")


def test_gpu_workloads_are_those_of_the_protocol() -> None:
    names = [workload.name for workload in gpu_workloads(quick=False)]
    for rows in (1, 8, 32):
        for tokens in (16, 128, 384):
            assert {f"{rows}x{tokens}", f"text {rows}x{tokens}"} <= set(names)
    assert {"mixed", "text mixed", "text stream"} <= set(names)
    assert {f"{do} {rows}" for do in ("generate", "decode") for rows in (1, 8)} <= set(names)
    assert len(names) == len(set(names)) == 25
    (stream,) = next(each for each in gpu_workloads(False) if each.name == "text stream").lengths(
        np.random.default_rng(0)
    )
    assert (len(stream), sum(stream), max(stream)) == (500, 64_000, 384)


def test_gpu_bundles_are_those_that_the_chosen_rows_need() -> None:
    every = {*GPU_EXPORTS, *GPU_VARIANTS}
    assert wanted_bundles("text-classification", None, "cuda") == every
    assert wanted_bundles("text-classification", None, "cpu") == every - set(FLAVORS)
    assert wanted_bundles("text-generation", None, "cpu") == {"plain", "optimized"}
    chosen = "ours cuda packed,ours cuda static cache"
    assert wanted_bundles("text-classification", chosen, "cuda") == {"packed", "packed optimized"}
    assert wanted_bundles("text-generation", chosen, "cuda") == {"optimized"}
    assert wanted_bundles("text-classification", "", "cuda") == set()


def test_rows_of_ours_say_whether_calls_are_captured(bundles: Bundles, tmp_path: Path) -> None:
    """On a card each row says it, whatever the provider's default; the CPU in its place takes portable graphs alone."""
    folder = bundles("text-classification")
    made = Prepared("text-classification", tmp_path, tmp_path, {"packed": folder, "packed optimized": folder})
    specs = gpu.our_specs(made, [], tmp_path / "views", "cuda")
    assert {spec.name: spec.options["cuda_graphs"] for spec in specs} == {
        "ours cuda packed": False, "ours cuda packed optimized": False, "ours cuda packed optimized, graphs": True,
    }  # fmt: skip
    (spec,) = gpu.our_specs(made, [], tmp_path / "views", "cpu")
    assert (spec.name, spec.options["provider"], spec.options["cuda_graphs"]) == ("ours cuda packed", "cpu", None)


def test_gpu_bundles_are_made_of_one_another(bundles: Bundles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands, with a program in their place that copies a bundle, and fails at engines."""
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command[3:])
        if "export" in command:
            shutil.copytree(bundles("text-classification"), command[-1])
        return subprocess.CompletedProcess(command, int("engine" in command), "", "no builder")

    monkeypatch.setattr(preparation.subprocess, "run", run)
    records: list[dict[str, object]] = []

    def make(wanted: set[str]) -> Prepared:
        return prepare_gpu(
            tmp_path, "text-classification", tmp_path / "checkpoint", "fp16", wanted,
            record=records.append, progress=lambda step: None,
        )  # fmt: skip

    made = make({"packed optimized"})
    assert list(made.bundles) == ["packed", "packed optimized"]
    export, optimize = commands
    assert export[0] == "export"
    assert export[export.index("--layout") + 1] == "packed"
    assert optimize[0] == "optimize"
    assert optimize[2:] == ["--target", "onnxruntime-cuda", "--precision", "fp16"]
    made = make({"tensorrt", "packed"})
    assert list(made.bundles) == ["plain", "packed"]
    assert made.missing == {"ours tensorrt": "no builder"}
    assert [item["what"] for item in records] == [
        f"text-classification, {name}" for name in ("packed", "packed optimized", "plain", "packed", "tensorrt")
    ]


def test_machine() -> None:
    found = describe()
    assert found["cpus"] >= 1
    assert found["versions"]["numpy"] == np.__version__
    assert OtherWork().look() >= 0


def test_other_work_is_all_work_but_this_programs_and_its_childrens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 10 seconds 23 of all CPUs' time are used, 4 by this program, 3 by a child and 1 by one that has ended."""

    def process(own: float, children: list[SimpleNamespace], ended: float = 0.0) -> SimpleNamespace:
        times = SimpleNamespace(user=own, system=own / 4, children_user=ended, children_system=0.0)
        return SimpleNamespace(cpu_times=lambda: times, children=lambda recursive: children)

    def at(now: float, busy: float, made: SimpleNamespace) -> None:
        monkeypatch.setattr(benchmarks.machine.time, "monotonic", lambda: now)
        times = SimpleNamespace(user=busy, system=busy / 2, idle=1000 * now, steal=busy / 2)
        monkeypatch.setattr(benchmarks.machine.psutil, "cpu_times", lambda: times)
        monkeypatch.setattr(benchmarks.machine.psutil, "Process", lambda: made)

    at(100.0, 50.0, process(8.0, [process(4.0, [])], ended=2.0))
    other = OtherWork()
    at(110.0, 61.5, process(11.2, [process(6.4, [])], ended=3.0))
    assert other.look() == pytest.approx((23 - 4 - 3 - 1) / 10)
    at(112.0, 61.5, process(12.0, [process(6.4, [])], ended=3.0))
    assert other.look() == 0.0, "clocks of processes and of the machine tick at different times"


def test_texts_have_exactly_their_tokens(bundles: Bundles) -> None:
    tokenizer = XLMTokenizer.from_pretrained(bundles("text-classification"))
    rng = np.random.default_rng(0)
    texts = TextSampler(tokenizer, rng)
    for tokens in (3, 4, 16, 50):
        text = texts.draw(tokens, rng)
        assert len(tokenizer(text)["input_ids"]) == tokens
    assert texts.draw(30, rng) != texts.draw(30, rng)


def test_only_graph_is_a_bundle_that_answers_the_same(bundles: Bundles, tmp_path: Path) -> None:
    folder = bundles("text-classification")
    bundle = Bundle.load(folder)
    view = only_graph(bundle, bundle.graphs[0], tmp_path)
    text = "The old lighthouse stands at the edge of the small town."
    Bundle.load(view).check_files()
    assert Bundle.load(view).graphs == (bundle.graphs[0],)
    expected, found = (pipeline("text-classification", path)(text, top_k=None) for path in (folder, view))
    assert found == expected


def test_every_graph_of_a_bundle_becomes_a_contender(bundles: Bundles, tmp_path: Path) -> None:
    """A graph that another one made appears by itself, once, and where a provider cannot take it, not at all."""
    folder = bundles("text-classification")
    made = Prepared("text-classification", tmp_path, tmp_path, {"padded fp32": folder, "again": folder})
    names = [spec.name for spec in our_specs(made, [], tmp_path / "views")]
    assert names == ["ours padded fp32 ORT"]  # OpenVINO with it is the peer of that name
    values = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in values["files"]:
        (copy / name).write_bytes((folder / name).read_bytes())
    more = dict(values["graphs"][0], file="model.int8.onnx", precision="int8")
    own = dict(values["graphs"][0], file="model.ov.onnx", precision="int8", engine="openvino")
    values["graphs"] += [more, own]
    for name in ("model.int8.onnx", "model.ov.onnx"):
        (copy / name).write_bytes(name.encode())
        values["files"][name] = hashlib.sha256(name.encode()).hexdigest()
    (copy / "bundle.json").write_text(json.dumps(values), encoding="utf-8")
    names = [spec.name for spec in our_specs(made, [copy], tmp_path / "views")]
    assert names[1:] == [
        "ours copy model.int8 ORT", "ours copy model.int8 OV", "ours copy model.ov OV",
    ]  # fmt: skip


def test_worker_says_why_it_failed(tmp_path: Path) -> None:
    options = {"file": str(tmp_path / "none.onnx"), "engine": "onnxruntime", "precision": "f32"}
    with pytest.raises(ContenderError, match=r"none\.onnx"):
        Worker("graph_model", options, threads=1, cpus=[], log=tmp_path / "log", timeout=100)


@pytest.mark.whole
def test_quick_run_of_the_cpu_suite(tmp_path: Path) -> None:
    """Two peers, two workloads, accuracy on a checkpoint: everything is measured, correct, and in the report."""
    trained = make_checkpoint(
        tmp_path / "trained", "XLMForSequenceClassification", n_langs=15, max_position_embeddings=256,
        id2label=dict(enumerate(XNLI_LABELS)), n_layers=1,
    )  # fmt: skip
    done = run(
        "cpu", "--quick", "--threads", "1", "--layers", "1", "--dim", "64", "--vocab", "300", "--rounds", "2",
        "--variants", "", "--only", "mixed,fill-mask", "--peers", "transformers fp32,OpenVINO fp32",
        "--ours", "ours padded fp32", "--work", str(tmp_path / "work"), "--output", str(tmp_path / "report"),
        "--optimum", str(tmp_path / "none"), "--trained", str(trained),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["finished"]
    assert [item["name"] for item in found["workloads"]] == ["mixed", "fill-mask"]
    expected = {"transformers fp32", "OpenVINO fp32", "ours padded fp32 ORT", "bound fp32", "bound bf16", "bound int8"}
    for workload in found["workloads"]:
        assert expected <= {row["contender"] for row in workload["rows"]}
        assert all(row["seconds"]["n"] >= 2 for row in workload["rows"])
        assert workload["ratios"]["best_peer"] > 0
    exact = [item for item in found["contenders"] if item["name"] in ("OpenVINO fp32", "ours padded fp32 ORT")]
    assert len(exact) == 4
    for item in exact:
        assert item["check"]["max_difference"] < 1e-4
        assert item["check"]["agreement"] == 1
        assert item["first_answer"]["median"] > 0
        assert item["peak_mb"] >= item["rss_mb"] * 0.5 > 0
    accuracies = {item["name"]: item["accuracy"] for item in found["contenders"] if "accuracy" in item}
    assert expected - set(accuracies) == {"bound fp32", "bound bf16", "bound int8"}
    assert len(set(accuracies.values())) == 1  # the same weights in fp32 in all engines
    assert 0 < accuracies["transformers fp32"] < 1
    assert "optimum (text-classification)" in dict(found["missing"])
    for ending in (".md", ".png", ".svg", "-start.png"):
        assert (tmp_path / f"report{ending}").stat().st_size > 500


@pytest.mark.whole
def test_every_path_of_the_gpu_suite_on_the_cpu(tmp_path: Path) -> None:
    """The suite itself, with the CPU in place of a card."""
    workloads = "1x8,mixed,text 1x8,text mixed,text stream,generate 1,generate 8,decode 1,decode 8"
    done = run(
        "gpu", "--quick", "--together", "--device", "cpu", "--threads", "1", "--layers", "1", "--rounds", "1",
        "--only", workloads, "--peers", "transformers,torch SDPA fp16,torch packed",
        "--work", str(tmp_path / "work"), "--output", str(tmp_path / "report"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert not found["failed"]
    assert not found["missing"]
    assert [item["name"] for item in found["workloads"]] == workloads.split(",")
    packed = {"torch packed compiled fp16", "torch packed compiled, graph fp16"}
    for workload in found["workloads"]:
        names = {row["contender"] for row in workload["rows"]}
        generates = workload["task"] == "text-generation"
        assert {"transformers fp16", "torch SDPA fp16", "ours cuda cache" if generates else "ours cuda"} <= names
        assert names & packed == (
            set() if generates else {min(packed)} if workload["name"] == "text stream" else packed
        )
        assert any(name.startswith("bound, ") for name in names)
    checks = [item["check"] for item in found["contenders"] if "check" in item]
    assert len(checks) == 6  # of the classifier: four peers, the padded graph and the packed one
    assert all(check["max_difference"] < 0.05 for check in checks)
    by_name = {item["name"]: item["rows"] for item in found["workloads"]}
    assert {row["new_tokens"] for row in by_name["generate 8"] if row["side"] != "bound"} == {32}
    assert {row["new_tokens"] for row in by_name["decode 8"] if row["side"] != "bound"} == {8}
    assert found["rate_tera"]["median"] > 0
    assert [what for what, _ in found["prepared"] if what.startswith("text-generation")] == [
        "text-generation, checkpoint", "text-generation, plain", "text-generation, optimized",
    ]  # fmt: skip


def test_a_copied_checkpoint_holds_the_shards_of_other_folders(tmp_path: Path) -> None:
    copy_checkpoint(CHECKPOINT, tmp_path / "copy")
    wanted, got = (load_checkpoint(folder).model.state_dict() for folder in (CHECKPOINT, tmp_path / "copy"))
    assert got.keys() == wanted.keys()
    assert all((got[name] == wanted[name]).all() for name in wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"copy"}
