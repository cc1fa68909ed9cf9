"""The writer of bundles: graphs come whole or not at all, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Bundles
from xlm_export import optimize, quantize
from xlm_export.bundle_writer import add_graph, draft_of, exported_graph, recipe_of, replaced_by, set_default
from xlm_export.cli.main import main
from xlm_export.errors import VerificationError
from xlm_export.onnx_graph import file as onnx_file
from xlm_export.quantization import Limits
from xlm_runtime import pipeline
from xlm_runtime.bundle import BUNDLE_FILE, Bundle, Graph, file_sha256
from xlm_runtime.errors import BundleError

TEXT = "The old lighthouse stands at the edge of the small town."


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def listed(folder: Path) -> set[str]:
    """The bundle's files as bundle.json has them; they are checked, and nothing else lies in the folder."""
    bundle = Bundle.load(folder)
    bundle.check_files()
    assert {path.name for path in folder.iterdir()} == {*bundle.files, BUNDLE_FILE}
    return set(bundle.files)


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))


def as_an_older_version_wrote_it(folder: Path, recipe: str) -> None:
    """A quantised graph under its precision's name, its recipe in the report alone."""
    quantize(folder, recipe)
    text = (folder / BUNDLE_FILE).read_text()
    values = json.loads(text.replace(f"model.{recipe}.onnx", "model.int8.onnx"))
    (folder / f"model.{recipe}.onnx").rename(folder / "model.int8.onnx")
    del values["graphs"][1]["recipe"]
    values["verification"]["quantized"] = {"int8": values["verification"]["quantized"]["model.int8.onnx"]}
    (folder / BUNDLE_FILE).write_text(json.dumps(values))


@pytest.mark.parametrize("recipe", ["int8-dynamic", "int8-static", "int4-weights"])
@pytest.mark.parametrize("per_layer", [False, True])
def test_external_data_belongs_to_the_graph(
    recipe: str, per_layer: bool, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit of what one ONNX file can hold: all of it is listed, and a copied bundle answers."""
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT", 20_000)
    made = quantize(bundle, recipe, per_layer=per_layer)
    names = listed(bundle)
    assert f"{made.graph.file}.data" in names
    assert made.bundle.files_of(made.graph) == [made.graph.file, f"{made.graph.file}.data"]
    want = pipeline("text-classification", bundle, precision=recipe)(TEXT)
    (tmp_path / "copy").mkdir()
    for name in {*names, BUNDLE_FILE} - {"model.onnx"}:
        shutil.copy(bundle / name, tmp_path / "copy" / name)
    (tmp_path / "copy" / "model.onnx").write_bytes(b"")  # the quantised graph stands alone
    values = json.loads((bundle / BUNDLE_FILE).read_text())
    values["files"]["model.onnx"] = file_sha256(tmp_path / "copy" / "model.onnx")
    (tmp_path / "copy" / BUNDLE_FILE).write_text(json.dumps(values))
    assert pipeline("text-classification", tmp_path / "copy", precision=recipe)(TEXT) == want


def test_the_metric_of_a_graph_with_external_data(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline opens the draft with its weights beside it."""
    monkeypatch.setattr(onnx_file, "INLINE_LIMIT", 20_000)
    label = pipeline("text-classification", bundle)(TEXT)["label"]
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": TEXT, "label": label}) + "\n")
    report = quantize(bundle, "int8-static", data=tmp_path / "data.jsonl").report
    assert (report["metric"]["fp32"], report["metric"]["quantized"]) == (1.0, 1.0)
    listed(bundle)


def test_external_data_goes_with_its_graph(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(onnx_file, "INLINE_LIMIT", 20_000)
        quantize(bundle, "int8-dynamic")
        made = optimize(bundle, "onnxruntime-cpu", precision="int8-dynamic")
        assert made.graph.weights_in == ("model.int8-dynamic.onnx.data",)
    quantize(bundle, "int8-dynamic", force=True)
    assert not [name for name in listed(bundle) if name.endswith(".data")]


def test_reports_go_with_their_graphs(bundle: Path) -> None:
    quantize(bundle, "int8-dynamic")
    optimize(bundle, "onnxruntime-cpu", precision="int8")
    optimize(bundle, "onnxruntime-cpu")
    quantize(bundle, "int8-dynamic", force=True)
    verification = Bundle.load(bundle).verification
    assert list(verification["optimized"]) == ["model.fp32.onnxruntime-cpu.onnx"]
    assert list(verification["quantized"]) == ["model.int8-dynamic.onnx"]
    listed(bundle)


def test_graphs_of_older_bundles(bundle: Path) -> None:
    """They load and are optimised as they are; a graph by the same recipe replaces them, one by another does not."""
    as_an_older_version_wrote_it(bundle, "int8-dynamic")
    older = Bundle.load(bundle)
    assert recipe_of(older, older.graphs[1]) == "int8-dynamic"
    assert pipeline("text-classification", bundle, precision="int8").model.graph.file == "model.int8.onnx"
    made = optimize(bundle, "onnxruntime-cpu", precision="int8-dynamic")
    assert made.graph.file == "model.int8-dynamic.onnxruntime-cpu.onnx"
    quantize(bundle, "int8-static")
    assert list(Bundle.load(bundle).verification["quantized"]) == ["int8", "model.int8-static.onnx"]
    assert main(["quantize", str(bundle), "--recipe", "int8-dynamic"]) == 1
    quantize(bundle, "int8-dynamic", force=True)
    assert [graph.file for graph in Bundle.load(bundle).graphs] == [
        "model.onnx",
        "model.int8-static.onnx",
        "model.int8-dynamic.onnx",
    ]
    verification = Bundle.load(bundle).verification
    assert list(verification["quantized"]) == ["model.int8-static.onnx", "model.int8-dynamic.onnx"]
    assert verification["optimized"] == {}
    assert {"model.int8.onnx", made.graph.file}.isdisjoint(listed(bundle))


def test_a_recipe_that_nobody_knows_is_replaced(bundle: Path) -> None:
    as_an_older_version_wrote_it(bundle, "int8-static")
    values = json.loads((bundle / BUNDLE_FILE).read_text())
    del values["verification"]["quantized"]
    (bundle / BUNDLE_FILE).write_text(json.dumps(values))
    quantize(bundle, "int8-dynamic", force=True)
    assert [graph.file for graph in Bundle.load(bundle).graphs] == ["model.onnx", "model.int8-dynamic.onnx"]


@pytest.fixture(params=["the same name", "an older bundle's name"])
def quantized(request: pytest.FixtureRequest, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle with an int8-dynamic graph, which a new one is to replace: under its own name with external data, or
    under the name that older versions gave it."""
    if request.param == "the same name":
        with monkeypatch.context() as patch:
            patch.setattr(onnx_file, "INLINE_LIMIT", 20_000)
            quantize(bundle, "int8-dynamic")
    else:
        as_an_older_version_wrote_it(bundle, "int8-dynamic")
    return bundle


def replace_quantized(folder: Path) -> Bundle:
    """Put a copy of the fp32 graph in the place of the quantised one."""
    now = Bundle.load(folder)
    source = now.graph()
    entry = replace(source, file="model.int8-dynamic.onnx", precision="int8", recipe="int8-dynamic")
    with draft_of(now) as draft:
        shutil.copy(folder / source.file, draft)
        return add_graph(now, draft, source, entry, "quantized", {"recipe": "int8-dynamic"})


def at_rename(number: int, act: Callable[[], None], monkeypatch: pytest.MonkeyPatch, after: bool) -> list[Path]:
    """Act at one of the renames to come, before or after it; returns the places that were renamed to."""
    rename, places = os.replace, []

    def replace_file(file: Path, place: Path) -> None:
        places.append(Path(place))
        if len(places) == number + 1 and not after:
            act()
        rename(file, place)
        if len(places) == number + 1 and after:
            act()

    monkeypatch.setattr(os, "replace", replace_file)
    return places


def test_the_order_of_things(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bundle.json names no file at the moment in which its content changes."""
    rename = os.replace

    def replace_file(file: Path, place: Path) -> None:
        rename(file, place)
        Bundle.load(quantized).check_files()

    monkeypatch.setattr(os, "replace", replace_file)
    made = replace_quantized(quantized)
    assert file_sha256(quantized / "model.int8-dynamic.onnx") == made.files["model.onnx"]
    monkeypatch.undo()
    assert listed(quantized) == set(made.files)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_at_any_rename_changes_nothing(
    error: BaseException, after: bool, quantized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(quantized)

    def fail() -> None:
        raise error

    for number in range(20):
        with monkeypatch.context() as patch:
            places = at_rename(number, fail, patch, after)
            try:
                replace_quantized(quantized)
            except type(error):
                pass
            else:
                break
        assert contents(quantized) == before, f"rename {number}, to {places[number].name}"
    assert number >= 2
    listed(quantized)


def test_a_process_that_is_killed_leaves_a_bundle(
    quantized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        folder = Path(shutil.copytree(quantized, tmp_path / str(number)))
        child = os.fork()
        if not child:
            at_rename(number, lambda: os.kill(os.getpid(), signal.SIGKILL), monkeypatch, after=False)
            replace_quantized(folder)
            os._exit(0)
        if not os.waitpid(child, 0)[1]:
            break
        left = Bundle.load(folder)
        left.check_files()
        assert left.graph().file == "model.onnx"
        assert replace_quantized(folder).graph("int8-dynamic").file == "model.int8-dynamic.onnx", "the next one works"
    assert number >= 2


def test_what_others_wrote_meanwhile_stays(bundle: Path) -> None:
    quantize(bundle, "int8-dynamic")
    now = Bundle.load(bundle)
    entry = replace(now.graph(), file="model.other.onnx", recipe="other", precision="int8")
    with draft_of(now) as draft:
        shutil.copy(bundle / "model.onnx", draft)
        quantize(bundle, "int8-static")
        replace(Bundle.load(bundle), timings=({"cpu": "a"},)).write()
        made = add_graph(now, draft, now.graph(), entry, "quantized", {"recipe": "other"})
    assert made == Bundle.load(bundle)
    assert [graph.recipe for graph in made.graphs] == [None, "int8-dynamic", "int8-static", "other"]
    assert made.timings == ({"cpu": "a"},)
    listed(bundle)


def test_a_source_that_was_replaced_meanwhile(bundle: Path) -> None:
    now = Bundle.load(bundle)
    entry = replace(now.graph(), file="model.other.onnx", recipe="other")
    with draft_of(now) as draft:
        shutil.copy(bundle / "model.onnx", draft)
        replace(now, files=now.files | {"model.onnx": "0" * 64}).write()
        with pytest.raises(BundleError, match=r"File 'model.onnx' .* was replaced while a graph was made of it"):
            add_graph(now, draft, now.graph(), entry, "quantized", {})


def test_a_name_that_is_taken(bundle: Path) -> None:
    now = Bundle.load(bundle)
    entry = replace(now.graph(), file="vocab.json", recipe="other")
    with draft_of(now) as draft:
        draft.touch()
        with pytest.raises(BundleError, match=r"has another file 'vocab.json'"):
            add_graph(now, draft, now.graph(), entry, "quantized", {})


def test_places(bundle: Path) -> None:
    """What a graph replaces: the same recipe and layout, and of optimised graphs the same target alone."""
    now = Bundle.load(bundle)
    fp32 = now.graph()
    graphs = {
        "dynamic": replace(fp32, precision="int8", recipe="int8-dynamic"),
        "dynamic, packed": replace(fp32, precision="int8", recipe="int8-dynamic", layout="packed"),
        "dynamic, optimised": replace(fp32, precision="int8", recipe="int8-dynamic", target="onnxruntime-cpu"),
        "static": replace(fp32, precision="int8", recipe="int8-static"),
        "fp32, optimised": replace(fp32, target="onnxruntime-cpu"),
    }
    now = replace(now, graphs=(fp32, *graphs.values()))
    named: dict[Graph, str] = {graph: name for name, graph in graphs.items()}

    def gone(name: str, section: Any) -> list[str]:
        return [named[graph] for graph in replaced_by(now, graphs[name], section)]

    assert gone("dynamic", "quantized") == ["dynamic", "dynamic, optimised"]
    assert gone("static", "quantized") == ["static"]
    assert gone("dynamic, packed", "quantized") == ["dynamic, packed"]
    assert gone("dynamic, optimised", "optimized") == ["dynamic, optimised"]
    assert gone("fp32, optimised", "optimized") == ["fp32, optimised"]


def test_a_draft_without_hard_links(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, target: Path) -> None:
        raise OSError("no hard links here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    quantize(bundle, "int8-static")
    optimize(bundle, "onnxruntime-cpu", precision="int8-static")
    listed(bundle)


def test_interrupted_means_that_nothing_was_written(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`quantize --force`, interrupted at each rename that it makes."""
    quantize(bundle, "int8-dynamic")
    before = contents(bundle)

    def interrupt() -> None:
        raise KeyboardInterrupt

    for number in range(6):
        with monkeypatch.context() as patch:
            at_rename(number, interrupt, patch, after=False)
            status = main(["quantize", str(bundle), "--recipe", "int8-dynamic", "--force"])
        if not status:
            break
        assert status == 130
        assert "interrupted; the bundle is as it was before" in capsys.readouterr().err
        assert contents(bundle) == before
    assert number >= 2


def test_a_limit_that_is_broken_leaves_the_graph_to_be_replaced(bundle: Path) -> None:
    quantize(bundle, "int8-dynamic")
    before = contents(bundle)
    with pytest.raises(VerificationError):
        quantize(bundle, "int8-dynamic", limits=Limits(max_divergence=1e-9), force=True)
    assert contents(bundle) == before


def test_what_a_planted_entry_names_is_not_deleted(bundle: Path, tmp_path: Path) -> None:
    """`quantize --force` removes the files of the graph that it replaces: plain names inside the folder alone."""
    quantize(bundle, "int8-dynamic")
    for name in ("../mine.onnx", str(tmp_path / "mine.onnx"), "vocab.json", "sub/mine.onnx"):
        (tmp_path / "mine.onnx").write_text("mine")
        folder = Path(shutil.copytree(bundle, tmp_path / "planted"))
        (folder / "sub").mkdir()
        (folder / "sub" / "mine.onnx").write_text("mine")
        values = json.loads((folder / BUNDLE_FILE).read_text())
        values["graphs"].append({**values["graphs"][1], "file": name})
        values["files"][name] = file_sha256(folder / name)
        (folder / BUNDLE_FILE).write_text(json.dumps(values))
        before = contents(tmp_path)
        with pytest.raises(BundleError, match="expected"):
            quantize(folder, "int8-dynamic", force=True)
        assert contents(tmp_path) == before
        shutil.rmtree(folder)


def test_weights_that_another_graph_reads_stay(bundle: Path) -> None:
    """A graph that stays may read weights out of one that goes, in a bundle that others made."""
    quantize(bundle, "int8-dynamic")
    values = json.loads((bundle / BUNDLE_FILE).read_text())
    values["graphs"][0]["weights_in"] = ["model.int8-dynamic.onnx"]
    (bundle / BUNDLE_FILE).write_text(json.dumps(values))
    before = contents(bundle)
    with pytest.raises(BundleError, match=r"has another file 'model.int8-dynamic.onnx', whose name the new graph"):
        quantize(bundle, "int8-dynamic", force=True)
    assert contents(bundle) == before


@pytest.mark.parametrize("name", ["int8-dynamic", "int8", "model.int8-dynamic.onnx"])
def test_the_default(name: str, bundle: Path, bundles: Bundles, capsys: pytest.CaptureFixture[str]) -> None:
    quantize(bundle, "int8-dynamic")
    assert pipeline("text-classification", bundle).model.graph.file == "model.onnx"
    assert main(["default", str(bundle), name]) == 0
    assert "without a precision pipelines take int8-dynamic now (model.int8-dynamic.onnx)" in capsys.readouterr().out
    assert pipeline("text-classification", bundle).model.graph.file == "model.int8-dynamic.onnx"
    listed(bundle)
    made = optimize(bundle, "onnxruntime-cpu").graph
    assert made.recipe == "int8-dynamic", "of the default, too"
    assert pipeline("text-classification", bundle).model.graph == made
    quantize(bundle, "int8-dynamic", force=True)
    assert Bundle.load(bundle).graph().recipe == "int8-dynamic", "it stays the default when it is made anew"
    assert exported_graph(Bundle.load(bundle)).file == "model.onnx"
    checkpoint = bundles("text-classification").parent / "checkpoints" / "text-classification"
    assert main(["verify", str(bundle), "--checkpoint", str(checkpoint)]) == 0, "of the exported graph as before"
    assert set_default(bundle, "fp32").file == "model.onnx"
    assert main(["default", str(bundle), "int4"]) == 1
    assert "no graph in precision 'int4'; it has fp32, int8-dynamic" in capsys.readouterr().err


def test_two_recipes_of_one_precision(bundle: Path) -> None:
    """The default is a recipe, and no provider takes another one of the same precision for it."""
    quantize(bundle, "int8-dynamic")
    quantize(bundle, "int8-static")
    optimize(bundle, "onnxruntime-cpu", precision="int8-dynamic")
    set_default(bundle, "int8-static")
    assert pipeline("text-classification", bundle).model.graph.file == "model.int8-static.onnx"


def test_what_a_killed_process_left_is_swept(bundle: Path) -> None:
    before = contents(bundle)
    ready, ours = os.pipe()
    child = os.fork()
    if not child:
        now = Bundle.load(bundle)
        with draft_of(now) as draft:
            shutil.copy(bundle / "model.onnx", draft)
            draft.with_name(f"{draft.name}.folder").mkdir()
            os.write(ours, b"1")
            signal.pause()
    os.read(ready, 1)
    with draft_of(Bundle.load(bundle)):
        assert len(list(bundle.glob(".adding-*.onnx"))) == 1, "a draft whose process lives stays"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with draft_of(Bundle.load(bundle)):
        assert not list(bundle.glob(".adding-*.onnx"))
    assert contents(bundle) == before
