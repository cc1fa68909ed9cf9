"""The stamp of an engine: written and read, and checked against what is about to load the plan."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Bundles
from xlm_runtime.bundle import Bundle
from xlm_runtime.engine_stamp import EngineProfile, EngineStamp, find_stamps
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
        targets=("sm80", "sm89"),
        precision=graph.precision,
        profiles=(EngineProfile("1x32", {spec.name: ((1, 1), (1, 32), (1, 32)) for spec in graph.inputs}),),
        graph=graph.file,
        sources={name: bundle.files[name] for name in bundle.files_of(graph)},
        plan="engines/small.plan",
        plan_sha256=hashlib.sha256(PLAN).hexdigest(),
        inputs=graph.inputs,
        outputs=graph.outputs,
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


def test_what_does_not_fit_says_how_to_build_anew(bundle: Bundle) -> None:
    stamp = stamped(bundle)
    command = f"xlm-export engine {bundle.folder} --flavor tensorrt-rtx --precision fp32 --target sm89"
    for changed, message in (
        (replace(stamp, version="1.6"), "was built by tensorrt-rtx 1.6, but 1.7 is installed"),
        (replace(stamp, targets=("sm80",)), "was built for sm80, but this GPU is sm89"),
        (replace(stamp, sources={"model.onnx": "0" * 64}), "was built from another 'model.onnx'"),
        (replace(stamp, plan_sha256="0" * 64), r"has changed since it was built \(sha256 differs\)"),
        (replace(stamp, plan="engines/other.plan"), "is not there, though its stamp is"),
    ):
        with pytest.raises(EngineError, match=f"{message}.* Build it again: {command}$"):
            changed.check(bundle, "tensorrt-rtx", "1.7", "sm89")
    with pytest.raises(EngineError, match=r"was built by tensorrt-rtx, but tensorrt is to load it.*--flavor tensorrt "):
        stamp.check(bundle, "tensorrt", "10.9", "sm89")


def test_what_cannot_be_read(bundle: Bundle) -> None:
    stamped(bundle)
    path = bundle.folder / "engines" / "small.json"
    with pytest.raises(EngineError, match=r"File 'none\.json' not found"):
        EngineStamp.load(path.with_name("none.json"))
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"stamp_version": 9}))
    with pytest.raises(EngineError, match="has version 9, this xlm-onnx reads version 1"):
        find_stamps(bundle)
    for text in ("{", "[]", json.dumps({"stamp_version": 1}), json.dumps(values | {"profiles": [{"name": "x"}]})):
        path.write_text(text)
        with pytest.raises(EngineError, match="is damaged"):
            EngineStamp.load(path)


def test_engines_do_not_trouble_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    stamped(bundle)
    copied = Bundle.load(shutil.copytree(bundle.folder, tmp_path / "copy"))
    copied.check_files()
    assert len(find_stamps(copied)) == 1
    assert not any(name.startswith("engines") for name in copied.files)
