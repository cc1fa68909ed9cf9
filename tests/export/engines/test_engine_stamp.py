"""The stamp of an engine: written and read, and checked against what is about to load the plan."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Bundles
from xlm_export.cli.main import build_parser
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.engine_stamp import EngineProfile, EngineStamp, build_command, find_stamps
from xlm_runtime.errors import EngineError

PLAN = b"a plan"


@pytest.fixture
def bundle(bundles: Bundles, tmp_path: Path) -> Bundle:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    (folder / "engines").mkdir()
    return Bundle.load(folder)


def stamped(bundle: Bundle) -> EngineStamp:
    graph = bundle.graph()
    stamp = EngineStamp(
        flavor="tensorrt-rtx",
        version="1.7",
        gpu_archs=("sm80", "sm89"),
        precision=graph.precision,
        profiles=(EngineProfile("1x32", {spec.name: ((1, 1), (1, 32), (1, 32)) for spec in graph.inputs}),),
        graph=graph.file,
        sources={name: bundle.files[name] for name in bundle.files_of(graph)},
        plan="engines/small.plan",
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        inputs=graph.inputs,
        outputs=graph.outputs,
        options=("--profile", "1x1:1x32:1x32", "--name", "small"),
    )
    (bundle.folder / stamp.plan).write_bytes(PLAN)
    stamp.write(bundle.folder / "engines" / "small.json", {"seconds": 1.5})
    return stamp


def test_written_and_read(bundle: Bundle) -> None:
    stamp = stamped(bundle)
    path = bundle.folder / "engines" / "small.json"
    assert EngineStamp.load(path) == stamp
    assert json.loads(path.read_text())["report"] == {"seconds": 1.5}
    assert sorted(item.name for item in path.parent.iterdir()) == ["small.json", "small.plan"]
    assert find_stamps(bundle) == find_stamps(bundle, "fp32") == (stamp,)
    assert find_stamps(bundle, "fp16") == ()
    stamp.check(bundle, "tensorrt-rtx", "1.7", "sm89")


def built_again(message: str) -> argparse.Namespace:
    """The options of the command at the end of an error, as the command line itself reads them."""
    words = shlex.split(message.partition("Build it again: ")[2])
    assert words[:2] == ["xlm-export", "engine"]
    return build_parser().parse_args(words[1:])


def test_what_does_not_fit_says_how_to_build_anew(bundle: Bundle) -> None:
    stamp = stamped(bundle)
    for changed, message in (
        (replace(stamp, version="1.6"), "was built by tensorrt-rtx 1.6, but 1.7 is installed"),
        (replace(stamp, gpu_archs=("sm80",)), "was built for sm80, but this GPU is sm89"),
        (replace(stamp, sources={"model.onnx": "0" * 64}), "was built from another 'model.onnx'"),
        (replace(stamp, plan_sha256="0" * 64), r"has changed since it was built \(sha256 differs\)"),
        (replace(stamp, plan="engines/other.plan"), "is not there, though its stamp is"),
    ):
        with pytest.raises(EngineError, match=f"{message}.* Build it again: ") as caught:
            changed.check(bundle, "tensorrt-rtx", "1.7", "sm89")
        options = built_again(str(caught.value))
        assert (options.bundle, options.flavor, options.precision) == (bundle.folder, "tensorrt-rtx", "fp32")
        assert options.gpu_arch == ("sm80", "sm89"), (
            "an engine for several keeps them, and the GPU at hand is among them"
        )
        assert (options.profile, options.profiles, options.name) == (["1x1:1x32:1x32"], None, "small")
    with pytest.raises(EngineError, match=r"was built by tensorrt-rtx, but tensorrt is to load it") as caught:
        stamp.check(bundle, "tensorrt", "10.9", "sm89")
    options = built_again(str(caught.value))
    assert (options.flavor, options.gpu_arch, options.name) == ("tensorrt", (), "small")
    with pytest.raises(EngineError, match=r"was built by tensorrt, but tensorrt-rtx is to load it") as caught:
        replace(stamp, flavor="tensorrt", gpu_archs=("sm90",)).check(bundle, "tensorrt-rtx", "1.7", "sm89")
    assert built_again(str(caught.value)).gpu_arch == ("sm89",), "tensorrt-rtx may not know what tensorrt built for"


def test_a_precision_that_is_gone_is_not_asked_for(bundle: Bundle) -> None:
    """The stamp's graph was in fp16, the bundle has fp32 now."""
    stamp = replace(stamped(bundle), precision="fp16", sources={"model.onnx": "0" * 64})
    with pytest.raises(EngineError, match="was built from another") as caught:
        stamp.check(bundle, "tensorrt-rtx", "1.7", "sm89")
    assert built_again(str(caught.value)).precision == "fp32"


def test_build_command(bundle: Bundle) -> None:
    graph = bundle.graph()
    command = f"xlm-export engine {bundle.folder} --flavor tensorrt"
    assert build_command(bundle, "tensorrt") == f"{command} --precision fp32"
    assert build_command(bundle, "tensorrt", "fp16") == f"{command} --precision fp16"
    others = [
        replace(graph, precision="int8"),
        replace(graph, target="onnxruntime-cpu"),
        replace(graph, layout="packed"),
    ]
    half = replace(bundle, graphs=(*others, replace(graph, precision="fp16"), graph))
    assert build_command(half, "tensorrt") == f"{command} --precision fp16", "the first padded one of a fit type"
    assert build_command(replace(bundle, graphs=tuple(others)), "tensorrt") == command
    spaced = replace(bundle, folder=Path("my bundle"))
    assert shlex.split(build_command(spaced, "tensorrt-rtx", None, ["sm80"], ["--name", "a"]))[2:] == [
        "my bundle", "--flavor", "tensorrt-rtx", "--precision", "fp32", "--gpu-arch", "sm80", "--name", "a",
    ]  # fmt: skip


@pytest.mark.parametrize("lean_runtime", [None, "included", "excluded"])
def test_a_version_compatible_engine(bundle: Bundle, lean_runtime: str | None) -> None:
    stamp = replace(stamped(bundle), flavor="tensorrt", version="11.4.0.106", lean_runtime=lean_runtime)
    path = bundle.folder / "engines" / "small.json"
    stamp.write(path)
    assert EngineStamp.load(path) == stamp
    versions = ["10.16.1", "11.3.0.99", "11.4.0.106", "11.10.0.1", "12.0.0"]
    runs = []
    for lean in (False, True):
        for version in versions:
            try:
                stamp.check(bundle, "tensorrt", version, "sm89", lean=lean)
                runs.append((lean, version))
            except EngineError as error:
                options = built_again(str(error))
                assert options.version_compatible == (lean and lean_runtime is None)
    if lean_runtime == "included":
        assert runs == [(lean, version) for lean in (False, True) for version in versions[2:4]]
    else:
        assert runs == [(False, versions[2])] + [(True, versions[2])] * (lean_runtime == "excluded")


def test_a_stamp_of_before_can_be_read(bundle: Bundle) -> None:
    """Without options, and before engines were version-compatible."""
    stamp = stamped(bundle)
    path = bundle.folder / "engines" / "small.json"
    values = json.loads(path.read_text())
    del values["options"], values["lean_runtime"]
    path.write_text(json.dumps(values))
    assert EngineStamp.load(path) == replace(stamp, options=(), lean_runtime=None)


def test_what_cannot_be_read(bundle: Bundle) -> None:
    stamped(bundle)
    path = bundle.folder / "engines" / "small.json"
    with pytest.raises(EngineError, match=r"File 'none\.json' not found"):
        EngineStamp.load(path.with_name("none.json"))
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"stamp_version": 9}))
    with pytest.raises(EngineError, match="has version 9, this xlm-onnx reads version 1"):
        find_stamps(bundle)
    for text in ("{", "[]", json.dumps({"stamp_version": 1}), json.dumps(values | {"profiles": [{"name": "x"}]}),
                 json.dumps(values | {"lean_runtime": "somewhere"})):  # fmt: skip
        path.write_text(text)
        with pytest.raises(EngineError, match=r"is damaged|is not JSON|must hold a JSON object"):
            EngineStamp.load(path)


def test_engines_do_not_trouble_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    stamped(bundle)
    copied = Bundle.load(shutil.copytree(bundle.folder, tmp_path / "copy"))
    copied.check_files()
    assert len(find_stamps(copied)) == 1
    assert not any(name.startswith("engines") for name in copied.files)
