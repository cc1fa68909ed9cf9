"""What an export writes: the bundle's contents and its atomic writing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from tests.conftest import Bundles, Checkpoints, Exported
from tests.export.conftest import Traced
from xlm_export import export
from xlm_runtime import GenerationOptions, pipeline
from xlm_runtime.bundle import Bundle
from xlm_runtime.cli import main as cli
from xlm_runtime.errors import InputError
from xlm_runtime.generation.config_file import GENERATION_FILE


def test_external_data(bundles: Bundles, exported: Exported, tmp_path: Path) -> None:
    inside = bundles("feature-extraction")
    outside = exported(inside.parent / "checkpoints" / "feature-extraction", external_data=True)
    assert "model.onnx.data" in Bundle.load(outside).files
    moved = Path(shutil.copytree(outside, tmp_path / "moved"))
    inputs = {name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask", "langs")}
    sessions = [onnxruntime.InferenceSession(folder / "model.onnx") for folder in (inside, moved)]
    first, second = (session.run(None, inputs)[0] for session in sessions)
    np.testing.assert_array_equal(first, second)


def test_the_bundle_needs_no_checkpoint_and_no_neighbours(traced: Traced, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(traced("question-answering"), tmp_path / "checkpoint")
    export(checkpoint, tmp_path / "bundle", cls_index="last")
    shutil.rmtree(checkpoint)
    bundle = Bundle.load(tmp_path / "bundle")
    bundle.check_files()
    assert bundle.conventions == {"uses_langs": True, "langs": "input", "cls_index": "last"}
    assert set(bundle.files) == {path.name for path in bundle.folder.iterdir()} - {"bundle.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "no temporary folder is left"


def test_an_existing_folder_is_kept_without_force(traced: Traced, tmp_path: Path) -> None:
    checkpoint = traced("feature-extraction")
    first = export(checkpoint, tmp_path / "bundle", verify=False)
    assert first.verification == {"status": "not run"}
    with pytest.raises(InputError, match="--force"):
        export(checkpoint, tmp_path / "bundle")
    assert export(checkpoint, tmp_path / "bundle", force=True, verify=False).files.keys() == first.files.keys()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="holds no bundle and will not be replaced"):
        export(checkpoint, tmp_path / "other", force=True)


def test_the_generation_config_becomes_the_bundles_defaults(
    traced: Traced, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = shutil.copytree(traced("text-generation"), tmp_path / "checkpoint")
    values = {"max_new_tokens": 7, "num_beams": 2, "eos_token_id": [1, 5], "typical_p": 0.5, "use_cache": True}
    (checkpoint / GENERATION_FILE).write_text(json.dumps(values), encoding="utf-8")
    with pytest.warns(UserWarning, match=r"generation_config\.json .* asks for typical_p, which"):
        bundle = export(checkpoint, tmp_path / "bundle", verify=False)
    assert GENERATION_FILE in bundle.files
    pipe = pipeline("text-generation", bundle.folder)
    assert pipe.defaults == GenerationOptions(max_new_tokens=7, num_beams=2, eos_token_id=(1, 5))
    expected = pipe("the old", pipe.defaults.replace(max_new_tokens=3))
    assert pipe("the old") == pipe("the old", pipe.defaults)
    assert cli.main(["text-generation", str(bundle.folder), "the old", "--max-new-tokens", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == expected["ids"]
    (checkpoint / GENERATION_FILE).write_text('{"eos_token_id": 99999}', encoding="utf-8")
    with pytest.raises(InputError, match=r"'generation_config\.json' .* eos_token_id is 99999"):
        export(checkpoint, tmp_path / "other", verify=False)
    assert not (tmp_path / "other").exists()


def test_an_interrupted_export_leaves_nothing(traced: Traced, tmp_path: Path) -> None:
    checkpoint = traced("feature-extraction")

    def interrupt(step: str, left: int) -> None:
        if step.startswith("verify"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "bundle", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "Unknown precision 'fp8'; expected one of fp32, fp16, bf16"),
        ({"opset": 9}, "opset 9 is not offered"),
        ({"inputs": ("labels",)}, "Unknown optional input 'labels'"),
        ({"cls_index": "middle"}, "Unknown cls_index 'middle'"),
        ({"task": "summarization"}, "Unknown task 'summarization'"),
    ],
)
def test_refused_options(options: dict[str, Any], message: str, checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoint = checkpoints("XLMModel")
    with pytest.raises(InputError, match=message):
        export(checkpoint, tmp_path / "bundle", **options)
    assert not (tmp_path / "bundle").exists()
