"""Every official configuration, with its real vocabulary size and width and two layers, exports and verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from benchmarks.checkpoints import OFFICIAL, REAL_VOCABULARIES, SHARED, official_config, write_checkpoint
from tests.sharing import folder_name, make_once
from xlm_export import export
from xlm_export.families.xlm.modeling import XLMWithLMHeadModel
from xlm_runtime.bundle import Bundle
from xlm_runtime.tasks import find_task, graph_inputs


@pytest.mark.whole
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configuration(name: str, shared_folder: Path) -> None:
    config = official_config(name, n_layers=2)
    # Two of the same options and vocabulary are the same checkpoint, but for the name. Where languages have no
    # embeddings, how many there are is in no weight and in no graph, which is compared below.
    options = config.to_dict() if config.uses_langs else config.to_dict() | {"n_langs": None, "lang2id": None}
    digest = folder_name("official", vocabulary=REAL_VOCABULARIES.get(name), **options)

    def make(folder: Path) -> None:
        write_checkpoint(folder / "checkpoint", name, n_layers=2)
        export(folder / "checkpoint", folder / "bundle")

    bundle = Bundle.load(make_once(shared_folder / "official" / digest, make) / "bundle")
    assert bundle.verification["status"] == "passed"
    assert bundle.conventions["uses_langs"] == config.uses_langs
    assert bundle.graph().inputs == graph_inputs(find_task("XLMWithLMHeadModel", "fill-mask"), config)
    with torch.device("meta"):
        expected = {key: list(value.shape) for key, value in XLMWithLMHeadModel(config).state_dict().items()}
    del expected["pred_layer.proj.weight"]  # tied
    with safe_open(bundle.folder.with_name("checkpoint") / "model.safetensors", "pt") as weights:
        assert {key: weights.get_slice(key).get_shape() for key in weights.keys()} == expected  # noqa: SIM118


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data are not there")
def test_the_sizes_are_the_official_ones() -> None:
    published = json.loads((SHARED / "xlm_official_configs.json").read_text())["configs"]
    assert set(published) == set(OFFICIAL)
    for name, values in published.items():
        config = official_config(name).to_dict()
        for option in ("n_langs", "use_lang_emb", "vocab_size", "emb_dim", "n_heads", "n_layers", "causal"):
            assert config[option] == values[option], f"{name}: {option}"
        if config.get("lang2id"):
            assert config["lang2id"] == values["lang2id"], name
