"""Every official configuration, with its real vocabulary size and width and two layers, exports and verifies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.checkpoints import OFFICIAL, REAL_VOCABULARIES, SHARED, official_config, write_checkpoint
from tests.sharing import folder_name, make_once
from xlm_export import export
from xlm_runtime.bundle import Bundle


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_configuration(name: str, shared_folder: Path) -> None:
    # two of the same options and vocabulary are the same checkpoint, but for the name
    digest = folder_name("official", vocabulary=REAL_VOCABULARIES.get(name), **official_config(name).to_dict())

    def make(folder: Path) -> None:
        write_checkpoint(folder / "checkpoint", name, n_layers=2)
        export(folder / "checkpoint", folder / "bundle")

    bundle = Bundle.load(make_once(shared_folder / "official" / digest, make) / "bundle")
    assert bundle.verification["status"] == "passed"
    assert bundle.conventions["uses_langs"] == official_config(name).uses_langs


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
