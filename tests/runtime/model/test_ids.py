"""Ids without an embedding are refused before any engine sees them."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Bundles
from xlm_runtime import InputError, pipeline
from xlm_runtime.bundle import Bundle, file_sha256
from xlm_runtime.config import XLMConfig
from xlm_runtime.model.ids import check_ids

CONFIG = XLMConfig(vocab_size=100, n_langs=4)


def test_every_id_has_an_embedding() -> None:
    check_ids({"input_ids": np.array([[0, 99]]), "langs": np.array([[-1, 3]])}, CONFIG, str)
    check_ids({"input_ids": np.zeros((0, 3), np.int64)}, CONFIG, str)
    check_ids({"input_ids": np.array([[1], [2]], np.int32)[:, ::-1]}, CONFIG, str)
    for ids in ([[1, 100]], [[-1, 1]], [[10**15]]):
        with pytest.raises(InputError, match=rf"input_ids holds {np.array(ids).flat[np.argmax(np.abs(ids))]} "):
            check_ids({"input_ids": np.array(ids)}, CONFIG, lambda index: f"token {index}")
    for langs in ([[0, 4]], [[-2, 0]], [[-1, 4]]):
        with pytest.raises(InputError, match=r"langs holds (4|-2), but n_langs is 4: the model has embeddings 0 to 3"):
            check_ids({"input_ids": np.array([[1]]), "langs": np.array(langs)}, CONFIG, str)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize("name", ["text-classification", "text-classification-packed", "text-generation"])
def test_a_token_that_the_model_lacks_is_an_error_in_every_engine(
    bundles: Bundles, provider: str, name: str, tmp_path: Path
) -> None:
    """OpenVINO would read beyond the embeddings and answer."""
    if importlib.util.find_spec("onnxruntime" if provider == "cpu" else "openvino") is None:
        pytest.skip(f"{provider} is not installed")
    folder = Path(shutil.copytree(bundles(name), tmp_path / "bundle"))
    size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(vocab | {"q</w>": size}), encoding="utf-8")
    contents = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    contents["files"]["vocab.json"] = file_sha256(folder / "vocab.json")
    (folder / "bundle.json").write_text(json.dumps(contents), encoding="utf-8")
    pipe = pipeline(Bundle.load(folder).task, folder, provider=provider)
    pipe("the old town")
    with pytest.raises(InputError, match=rf"input_ids holds {size} \('q</w>'\), but vocab_size is {size}"):
        pipe("the old q")
