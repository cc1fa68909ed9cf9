"""Engines built by tensorrt_rtx, which needs no GPU for it: types, report, stamp, refusals, interrupts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.conftest import Bundles, HalfBundles
from tests.make_bundles import BUNDLES
from tests.make_checkpoint import make_checkpoint
from tests.runtime.sessions.gpu.fake_cuda import FakeRuntime
from xlm_export import export
from xlm_export.cli.main import main
from xlm_export.engines import build_engine
from xlm_export.engines.report import TYPES
from xlm_export.engines.trt import Toolkit
from xlm_runtime.bundle import Bundle, file_sha256
from xlm_runtime.bundle.engine_stamp import EngineStamp, find_stamps
from xlm_runtime.errors import BundleError, EngineError, InputError, MissingExtraError

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx has wheels for x86-64 alone")

TARGETS = ("sm80", "sm89", "sm120")
SMALL = "1x1:1x8:2x16"


@pytest.fixture
def copied(bundles: Bundles, half_bundles: HalfBundles, tmp_path: Path) -> Callable[[str, str], Path]:
    """A function from a tiny bundle's name and precision to a copy of it."""

    def copy(name: str, precision: str) -> Path:
        source = bundles(name) if precision == "fp32" else half_bundles(name, precision)
        return Path(shutil.copytree(source, tmp_path / name))

    return copy


@pytest.fixture
def bundle(copied: Callable[[str, str], Path]) -> Path:
    return copied("text-classification", "fp16")


def assert_built(folder: Path, stamp: EngineStamp, report: Any, precision: str, targets: tuple[str, ...]) -> None:
    written = Bundle.load(folder)
    written.check_files()
    assert (stamp.flavor, stamp.version) == ("tensorrt-rtx", Toolkit("tensorrt-rtx").version)
    assert (stamp.precision, stamp.gpu_archs, stamp.graph) == (precision, targets, "model.onnx")
    assert stamp.sources == {"model.onnx": file_sha256(folder / "model.onnx")}
    assert stamp.inputs == written.graph().inputs
    plan = folder / stamp.plan
    assert EngineStamp.load(plan.with_suffix(".json")) == stamp
    assert stamp.plan_sha256 == file_sha256(plan)
    assert sorted(path.name for path in plan.parent.iterdir()) == [plan.with_suffix(".json").name, plan.name]
    for target in targets:
        stamp.check(written, "tensorrt-rtx", stamp.version, target)

    layers = written.config.n_layers
    assert set(report.products) == {TYPES[precision]}
    assert report.products[TYPES[precision]] >= 8 * layers, "four projections, two in attention, two in the FFN"
    assert set(report.network["SOFTMAX"]) == {"FLOAT"}
    assert set(report.network["NORMALIZATION"]) == {"FLOAT"}
    assert report.network["NORMALIZATION"]["FLOAT"] >= 1 + 2 * layers
    assert report.attention["network"] == layers
    assert report.attention["softmax"] >= layers
    assert len(report.engine_layers) >= 2 * len(stamp.profiles)
    assert {layer["type"] for layer in report.engine_layers} >= {"gemm", "kgen"}
    assert report.plan_bytes == plan.stat().st_size
    assert report.memory["weights"] > 0
    assert report.memory["activation"] > 0
    assert json.loads(plan.with_suffix(".json").read_text())["report"] == report.to_dict()


def test_an_engine_beside_its_stamp(bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    stamp, report = build_engine(bundle, profile=[SMALL], gpu_archs=["sm89"])
    assert_built(bundle, stamp, report, "fp16", ("sm89",))
    assert stamp.plan == "engines/tensorrt-rtx.fp16.sm89.plan"
    assert [profile.name for profile in stamp.profiles] == [SMALL]
    assert report.attention["recognised"] == 2
    assert (bundle / "bundle.json").read_bytes() == before

    again, _ = build_engine(bundle, profile=[SMALL, "1x1:1x4:1x4"], gpu_archs=["sm89"])
    assert len(again.profiles) == 2
    assert find_stamps(Bundle.load(bundle)) == (again,), "a second run takes the first one's place"
    named, _ = build_engine(bundle, profile=[SMALL], gpu_archs=["sm80"], name="ampere", optimization_level=1)
    assert named.options == ("--profile", SMALL, "--optimization-level", "1", "--name", "ampere")
    assert stamp.options == ("--profile", SMALL)
    assert {item.plan for item in find_stamps(Bundle.load(bundle))} == {again.plan, "engines/ampere.plan"}


@pytest.mark.slow
def test_prompts_and_decoding_in_one_engine(copied: Callable[[str, str], Path]) -> None:
    bundle = copied("text-generation", "fp16")
    stamp, report = build_engine(bundle, profiles="latency", gpu_archs=["sm89"])
    assert_built(bundle, stamp, report, "fp16", ("sm89",))
    assert [profile.name for profile in stamp.profiles] == ["1x32", "1x64", "1x1, decoding"]
    assert stamp.options == ("--profiles", "latency")


@pytest.mark.parametrize(
    "causal", [pytest.param(False, id="padded"), pytest.param(True, id="cached", marks=pytest.mark.slow)]
)
def test_attention_of_usual_heads_is_one_kernel(causal: bool, tmp_path: Path) -> None:
    """Heads of 64, as XLM's are; tiny ones are recognised, and computed in several kernels."""
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "XLMWithLMHeadModel", emb_dim=128, n_heads=2, causal=causal)
    export(checkpoint, tmp_path / "bundle", precision="fp16", verify=False)
    _, report = build_engine(tmp_path / "bundle", profiles="latency", gpu_archs=["sm89"])
    profiles = 3 if causal else 2
    assert report.attention == {"network": 2, "recognised": 2, "softmax": 2 * profiles, "fused": 2 * profiles}


def test_command_line(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["engine", str(bundle), "--profile", SMALL, "--gpu-arch", "sm80,sm89", "--optimization-level", "1"]) == 0
    )
    said = capsys.readouterr().out
    assert "engines/tensorrt-rtx.fp16.sm80-sm89.plan: fp16" in said
    assert "matrix products: 17 in HALF" in said
    assert "softmax: 2 in FLOAT" in said
    assert "attention: 2 of 2 recognised" in said
    assert main(["engine", str(bundle), "--gpu-arch", "sm90"]) == 1
    assert "does not build for the GPU 'sm90'; expected some of sm75, sm80" in capsys.readouterr().err


def test_the_former_spelling_of_gpu_arch(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engine", str(bundle), "--target", "sm90,sm89"]) == 1
    said = capsys.readouterr().err
    assert "note: --target is now --gpu-arch" in said
    assert "does not build for the GPU 'sm90'" in said


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"flavor": "tensorflow"}, InputError, "Unknown flavor 'tensorflow'; expected one of tensorrt, tensorrt-rtx"),
        ({"precision": "int8"}, InputError, "Unknown precision 'int8' for an engine"),
        ({"precision": "bf16"}, InputError, "has no graph in bf16 .* it has fp16.*--precision bf16"),
        ({"profile": [SMALL], "profiles": "long"}, InputError, "--profile and --profiles contradict each other"),
        ({"profiles": "huge"}, InputError, "Unknown profiles 'huge'"),
        ({"profile": ["1x1:8x8"]}, InputError, "expected min:opt:max"),
        ({"gpu_archs": ["sm90"]}, InputError, "does not build for the GPU 'sm90'"),
        ({"optimization_level": 6}, InputError, "optimization_level is 6; expected 0 to 5"),
        ({"version_compatible": True, "flavor": "tensorrt-rtx"}, InputError, "tensorrt-rtx has no lean runtime"),
        ({"exclude_lean_runtime": True}, InputError, "--exclude-lean-runtime is for version-compatible engines"),
        ({"timing_cache": "cache"}, InputError, "tensorrt-rtx keeps no timing cache"),
        ({"name": "../other"}, InputError, "The engine's name '../other' is not one for a file"),
    ],
)
def test_refused_options(options: dict[str, Any], error: type[Exception], message: str, bundle: Path) -> None:
    with pytest.raises(error, match=message):
        build_engine(bundle, **options)
    assert not (bundle / "engines").exists()


@pytest.fixture
def as_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """`tensorrt_rtx` as `tensorrt`, which builds for the GPU at hand, and a fake of that, where no plan is inspected.

    TensorRT's own builder is nowhere to be had; this one has the same options.
    """
    import tensorrt_rtx

    api = {name: value for name, value in vars(tensorrt_rtx).items() if name != "ComputeCapability"}
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(**api))
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=FakeRuntime()))
    monkeypatch.setattr(Toolkit, "inspect", lambda self, plan: "not asked")


def test_a_version_compatible_engine(bundle: Path, as_tensorrt: None, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--version-compatible", "--exclude-lean-runtime"]
    assert main(["engine", str(bundle), "--flavor", "tensorrt", "--profile", SMALL, *flags]) == 0
    (stamp,) = find_stamps(Bundle.load(bundle))
    assert stamp.plan == "engines/tensorrt.fp16.sm80.version-compatible.plan"
    assert (stamp.lean_runtime, stamp.options) == ("excluded", ("--profile", SMALL, *flags))
    stamp.check(Bundle.load(bundle), "tensorrt", stamp.version, "sm80", lean=True)
    plain, _ = build_engine(bundle, flavor="tensorrt", profile=[SMALL])
    assert (plain.lean_runtime, plain.plan) == (None, "engines/tensorrt.fp16.sm80.plan"), "the one beside the other"
    # the builder has no lean runtime that it could put into a plan, and says so: it was asked to
    with pytest.raises(EngineError, match=r"cannot build the engine: .*Unable to load library: libnvinfer_lean"):
        build_engine(bundle, flavor="tensorrt", profile=[SMALL], version_compatible=True)


def test_a_missing_module(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"'tensorrt', which is not installed; .* or use --flavor tensorrt-rtx"):
        build_engine(bundle, flavor="tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingExtraError, match=r"'tensorrt-rtx', which is not installed.*xlm-onnx\[tensorrt\]"):
        build_engine(bundle)


def change_graph(
    folder: Path, contents: Callable[[dict[str, Any]], None], model: onnx.ModelProto | None = None
) -> None:
    """Put another graph into a bundle, with its right hash, and change its table of contents."""
    if model is not None:
        onnx.save(model, folder / "model.onnx")
    values = json.loads((folder / "bundle.json").read_text())
    values["files"]["model.onnx"] = file_sha256(folder / "model.onnx")
    contents(values)
    (folder / "bundle.json").write_text(json.dumps(values))


def test_a_half_precision_engine_of_float32_products_is_refused(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    change_graph(folder, lambda values: values["graphs"][0].update(precision="fp16"))
    with pytest.raises(
        EngineError, match=r"in fp16 was asked for, but the matrix products .* not in HALF: 17 in FLOAT"
    ):
        build_engine(folder, profile=[SMALL])
    assert not (folder / "engines").exists()


def test_packed_graphs_are_refused(bundle: Path) -> None:
    change_graph(bundle, lambda values: values["graphs"][0].update(layout="packed"))
    with pytest.raises(InputError, match="in the layout packed only; engines are built from padded graphs"):
        build_engine(bundle)


def test_a_refused_node_is_named(bundle: Path) -> None:
    names = [spec.name for spec in Bundle.load(bundle).graph().inputs]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names]
    nodes = [
        helper.make_node("Cast", [names[0]], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Det", ["float"], ["logits"], name="node_odd"),
    ]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 10
    change_graph(bundle, lambda values: None, model)
    with pytest.raises(EngineError, match=r"refuses the node 'node_odd' \(Det\) .* the operator is not supported"):
        build_engine(bundle, profile=[SMALL])
    (bundle / "model.onnx").write_bytes(b"no graph")
    change_graph(bundle, lambda values: None)
    with pytest.raises(BundleError, match=r"'model.onnx' .* is no ONNX file"):
        build_engine(bundle, profile=[SMALL])


def test_what_the_target_cannot_compute(bundles: Bundles, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundles("text-classification"), tmp_path / "bundle"))
    with pytest.raises(EngineError, match=r"cannot build the engine: .*FP32 GEMM is not supported"):
        build_engine(folder, profile=[SMALL], gpu_archs=["sm75"])
    assert not (folder / "engines").exists()


def test_an_interrupt_leaves_nothing(bundle: Path) -> None:
    """A user's Ctrl-C in the middle of TensorRT's own code."""
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))

    def start(step: str, left: int) -> None:
        if step.startswith("build"):
            timer.start()

    with pytest.raises(KeyboardInterrupt):
        build_engine(bundle, gpu_archs=TARGETS, progress=start)
    timer.cancel()
    assert not (bundle / "engines").exists()
    assert build_engine(bundle, profile=[SMALL])[0].gpu_archs == ("sm80", "sm86", "sm89", "sm120"), (
        "and the next one works"
    )


def test_a_disk_that_is_full_leaves_the_old_engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = build_engine(bundle, profile=[SMALL], gpu_archs=["sm89"])

    def fail(path: Path, data: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        build_engine(bundle, profile=[SMALL], gpu_archs=["sm89"])
    assert find_stamps(Bundle.load(bundle)) == (first,)
    first.check(Bundle.load(bundle), "tensorrt-rtx", first.version, "sm89")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("name", BUNDLES)
def test_every_graph(name: str, precision: str, copied: Callable[[str, str], Path]) -> None:
    folder = copied(name, precision)
    stamp, report = build_engine(folder, profiles="latency", gpu_archs=TARGETS)
    assert_built(folder, stamp, report, precision, TARGETS)
    cached = "past_key_values.0.key" in stamp.profiles[0].shapes
    assert cached == (name == "text-generation")
    assert len(stamp.profiles) == (3 if cached else 2)
    assert report.attention["recognised"] == 2


@pytest.mark.slow(seconds=4)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_every_target(target: str, precision: str, copied: Callable[[str, str], Path]) -> None:
    for name in ("question-answering", "text-generation"):
        folder = copied(name, precision)
        stamp, report = build_engine(folder, profile=["1x1:1x8:1x16"], gpu_archs=[target])
        assert_built(folder, stamp, report, precision, (target,))


@pytest.mark.gpu
def test_the_inspector(bundle: Path) -> None:
    try:
        from xlm_runtime.sessions.gpu.cuda_device import CudaDevice

        device = CudaDevice(0, "This test", "tensorrt")
    except (EngineError, MissingExtraError) as error:
        pytest.skip(str(error))
    architecture = device.architecture
    device.close()
    if architecture not in Toolkit("tensorrt-rtx").available_archs():
        pytest.skip(f"tensorrt_rtx does not build for {architecture}")
    _, report = build_engine(bundle, profile=[SMALL, "1x1:1x4:1x4"], gpu_archs=[architecture])
    assert isinstance(report.inspector, dict)
    assert len(report.inspector["device_memory_of_profiles"]) == 2
    assert "Layers" in report.inspector["layers"]
