"""Opening bundles: every way it can fail has one clear error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Bundles
from xlm_runtime import BundleError, EngineError, InputError, XLMError, pipeline
from xlm_runtime.model.opening import open_model
from xlm_runtime.pipelines import PIPELINES
from xlm_runtime.tasks import TASK_NAMES

TASK = "text-classification"


@pytest.fixture
def copy(bundles: Bundles, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles(TASK), tmp_path / "copy"))


def test_every_pipeline_answers_a_task_of_the_table() -> None:
    assert {entry.bundle_task for entry in PIPELINES.values()} <= set(TASK_NAMES)


def test_unknown_names_list_the_known_ones(bundles: Bundles) -> None:
    folder = bundles(TASK)
    with pytest.raises(InputError, match="Unknown task 'ner'; expected one of feature-extraction, fill-mask"):
        pipeline("ner", folder)
    with pytest.raises(InputError, match="Unknown provider 'tpu'; expected one of cpu, cuda, openvino"):
        pipeline(TASK, folder, provider="tpu")
    with pytest.raises(InputError, match="no graph in precision 'fp8'; it has fp32"):
        pipeline(TASK, folder, precision="fp8")
    with pytest.raises(InputError, match="threads is 0"):
        pipeline(TASK, folder, threads=0)
    with pytest.raises(InputError, match="max_tokens is 0"):
        pipeline(TASK, folder, max_tokens=0)
    with pytest.raises(InputError, match="cache_mb is -1"):
        pipeline(TASK, folder, cache_mb=-1)
    assert pipeline(TASK, folder, cache_mb=0).model.tokenizer.cache_mb == 0


def test_another_task(bundles: Bundles) -> None:
    with pytest.raises(InputError, match=r"exported for the task text-classification \(XLMForSequenceClassification\)"):
        pipeline("fill-mask", bundles(TASK))


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not found; expected a bundle written by `xlm-export export`"):
        pipeline(TASK, tmp_path / "absent")
    with pytest.raises(BundleError, match=r"File 'bundle.json' not found in path"):
        pipeline(TASK, tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "vocab.json"])
def test_a_missing_file(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"File '{name}' not found in path '{copy}'"):
        pipeline(TASK, copy)


def test_changed_small_files(copy: Path) -> None:
    (copy / "merges.txt").write_text("a b\n")
    with pytest.raises(BundleError, match=r"'merges.txt' .* has changed since the export"):
        pipeline(TASK, copy)


def test_changed_weights_are_found_before_the_first_answer(copy: Path) -> None:
    # one byte in the middle of a matrix: the engine loads it without noticing
    path = copy / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"'model.onnx' .* has changed since the export"):
        pipeline(TASK, copy)("Good!")


def test_truncated_weights_are_a_changed_file_and_no_engine_error(copy: Path) -> None:
    path = copy / "model.onnx"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BundleError, match=r"'model.onnx' .* has changed since the export"):
        pipeline(TASK, copy)


def test_a_newer_format(changed_bundle: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match=r"format version 99, this xlm-onnx reads version \d+; upgrade xlm-onnx"):
        pipeline(TASK, changed_bundle(TASK, entries={"format_version": 99}))


def test_a_failed_verification(changed_bundle: Callable[..., Path]) -> None:
    with pytest.raises(BundleError, match="failed its verification"):
        pipeline(TASK, changed_bundle(TASK, entries={"verification": {"status": "failed"}}))


def test_graphs_that_pipelines_cannot_feed(bundles: Bundles, changed_bundle: Callable[..., Path]) -> None:
    graphs = json.loads((bundles(TASK) / "bundle.json").read_text())["graphs"]
    ragged = [{**graphs[0], "layout": "ragged"}]
    with pytest.raises(BundleError, match="has the layout 'ragged'; this version reads padded and packed"):
        pipeline(TASK, changed_bundle(TASK, entries={"graphs": ragged}))


def test_a_graph_with_further_inputs(bundles: Bundles, changed_bundle: Callable[..., Path]) -> None:
    graphs = json.loads((bundles(TASK) / "bundle.json").read_text())["graphs"]
    graphs[0]["inputs"].append({"name": "position_ids", "dtype": "int64", "axes": ["batch", "sequence"]})
    with pytest.raises(BundleError, match="asks for position_ids, which pipelines do not give"):
        pipeline(TASK, changed_bundle(TASK, entries={"graphs": graphs}))


def test_an_engine_that_fails_says_so(bundles: Bundles) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has the CUDA provider")
    with pytest.raises(EngineError, match=r"provider='cuda' needs CUDAExecutionProvider.*`gpu` extra"):
        pipeline(TASK, bundles(TASK), provider="cuda")


def test_errors_are_builtin_ones_too() -> None:
    assert issubclass(InputError, ValueError)
    assert issubclass(BundleError, ValueError)
    assert issubclass(EngineError, RuntimeError)
    assert all(issubclass(error, XLMError) for error in (InputError, BundleError, EngineError))


def test_threads_share_a_pipeline(bundles: Bundles) -> None:
    from concurrent.futures import ThreadPoolExecutor

    model = pipeline(TASK, bundles(TASK))
    texts = [f"the old town {'of the island ' * (i % 9)}" for i in range(40)]
    expected = [model(text, top_k=None) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: model(text, top_k=None), texts))
    for answer, other in zip(answers, expected, strict=True):
        assert [item["label"] for item in answer] == [item["label"] for item in other]


def test_external_data_belong_to_their_graph(copy: Path) -> None:
    contents = json.loads((copy / "bundle.json").read_text())
    (copy / "model.onnx.data").write_bytes(b"1234")
    contents["files"]["model.onnx.data"] = "0" * 64
    (copy / "bundle.json").write_text(json.dumps(contents))
    opened = open_model(copy, TASK)
    with pytest.raises(BundleError, match=r"'model.onnx.data' .* has changed"):
        opened.check_weights()
