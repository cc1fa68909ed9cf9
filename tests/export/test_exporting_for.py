"""Bundles for a use: what the table says is in them, nothing else, and pipelines open them without further words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import Bundles
from tests.runtime.texts import TEXTS
from xlm_export import VerificationError, export_for
from xlm_export.cli.main import main
from xlm_export.quantization import Limits
from xlm_export.uses import USES
from xlm_runtime import InputError, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.bundle.schema import ENGINES_FOLDER

TASK = "text-classification"


def checkpoint_of(bundles: Bundles, name: str = TASK) -> Path:
    return bundles(name).parent / "checkpoints" / name


@pytest.mark.slow(seconds=6)
def test_for_cpu(
    bundles: Bundles, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    out = tmp_path / "bundle"
    assert main(["export", str(checkpoint_of(bundles)), str(out), "--for", "cpu"]) == 0
    said = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [words[0] for words in said] == ["layout", "recipe", "texts", "target", "default", *["time"] * 5]
    assert [words[1] for words in said[:5]] == ["packed:", "int8-static:", "own:", "onnxruntime-cpu:", "int8-static:"]
    written = Bundle.load(out)
    written.check_files()
    assert [graph.title for graph in written.graphs] == ["int8-static packed", "int8-static packed (onnxruntime-cpu)"]
    assert {path.name for path in out.iterdir()} == {*written.files, "bundle.json"}
    assert [*tmp_path.iterdir()] == [out]
    assert str(tmp_path) not in (out / "bundle.json").read_text().replace(str(written.source["checkpoint"]), "")
    want = [answer["label"] for answer in pipeline(TASK, bundles(TASK))(TEXTS)]
    for only_onnxruntime, provider, target in ((False, "openvino", None), (True, "cpu", "onnxruntime-cpu")):
        if only_onnxruntime:
            monkeypatch.setitem(sys.modules, "openvino", None)
        opened = pipeline(TASK, out)
        assert (opened.model.provider, opened.model.graph.target) == (provider, target)
        assert [answer["label"] for answer in opened(TEXTS)] == want


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "use", "titles", "providers"),
    [
        ("fill-mask", "portable", ["fp32"], ()),
        ("fill-mask", "cpu-small", ["int4-weights packed (onnxruntime-cpu)"], ("cpu",)),
        ("text-generation", "cpu", ["int8-dynamic", "int8-dynamic (onnxruntime-cpu)"], ("cpu", "openvino")),
        ("text-generation", "cpu-small", ["int4-weights (onnxruntime-cpu)"], ("cpu",)),
        (TASK, "gpu", ["fp16 packed (onnxruntime-cuda)"], ("cuda",)),
        (TASK, "tensorrt", ["fp16"], ("tensorrt", "cuda")),
    ],
)
def test_uses(
    name: str, use: str, titles: Sequence[str], providers: Sequence[str], bundles: Bundles, tmp_path: Path
) -> None:
    task = "text-generation" if name == "text-generation" else None
    made = export_for(checkpoint_of(bundles, name), tmp_path / "bundle", use, task=task)
    written = Bundle.load(tmp_path / "bundle")
    written.check_files()
    assert written.to_dict() == made.bundle.to_dict()
    assert [graph.title for graph in written.graphs] == titles
    assert [graph.weights_in for graph in written.graphs if graph.target == "onnxruntime-cuda"] in ([], [()])
    assert written.providers == providers
    assert [*tmp_path.iterdir()] == [tmp_path / "bundle"]
    assert all(choice.reason for choice in made.choices)
    assert bool(made.left_to_do) == (USES[use].precision == "fp16")  # this machine has no GPU
    if "cpu" in providers or not providers:
        assert pipeline(name, tmp_path / "bundle").model.provider == "cpu"
    else:
        with pytest.raises(InputError, match=rf"None of the providers {', '.join(providers)} is installed, has its"):
            pipeline(name, tmp_path / "bundle")
    if (tmp_path / "bundle" / ENGINES_FOLDER).exists():
        assert use == "tensorrt"


@pytest.mark.whole
def test_no_recipe_within_the_limit(bundles: Bundles, tmp_path: Path) -> None:
    limits = Limits(max_divergence=1e-9)
    with pytest.raises(VerificationError, match=r"made by int8-static was not added.*made by int8-dynamic was not"):
        export_for(checkpoint_of(bundles), tmp_path / "bundle", "cpu", limits=limits)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "moment",
    ["load the checkpoint", *(pytest.param(m, marks=pytest.mark.whole) for m in ("quantise", "measure the time"))],
)
def test_an_interruption_leaves_nothing(moment: str, bundles: Bundles, tmp_path: Path) -> None:
    def interrupt(step: str, left: int) -> None:
        if step == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_for(checkpoint_of(bundles), tmp_path / "bundle", "cpu-small", progress=interrupt)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "cpu", "--layout", "packed"], "--for cpu decides what --layout says; leave it out"),
        (["--for", "cpu", "--precision", "fp32"], "--for cpu decides what --precision says"),
        (["--for", "gpu", "--no-cache", "--no-verify"], "--for gpu decides what --cache, --no-verify says"),
        (["--for", "gpu", "--max-divergence", "1"], "--for gpu quantises nothing; leave out texts for calibration"),
        (["--calibration", "texts.txt"], "--calibration belongs to --for, or to xlm-export quantize"),
    ],
)
def test_contradictions(words: Sequence[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "absent"), str(tmp_path / "bundle"), *words]) == 1
    assert message in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_an_unknown_use(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="Unknown use 'phone'; expected one of portable, cpu, cpu-small, gpu, tensorrt"
    ):
        export_for(tmp_path, tmp_path / "bundle", "phone")
